"""Decode and resize of a 1-megapixel JPEG: deploykit against plain Pillow and torchvision, in one interleaved run.

    python benchmarks/preprocess.py [--rounds 200] [--out benchmarks/results/preprocess.json]

The photo is scikit-learn's china.jpg, scaled to 1224 x 817 with grain added, saved as JPEG at quality 90 with 4:2:0 chroma.
Each way starts from the file's bytes and ends with the uint8 [224, 224, 3] pixels of the same spec. One thread, CPU time of this
process, which other processes disturb least; rounds are interleaved (`deploykit.benchmark.rounds`).
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from PIL import Image, features
from torchvision import transforms

from benchmarks.report import RESULTS, describe_machine, write_results
from deploykit.benchmark.rounds import measure_sides
from deploykit.benchmark.timing import in_process, summarize
from deploykit.image import decode, load_pixels, normalize, resize_and_crop
from deploykit.spec import ImageSpec

Pixels = NDArray[np.uint8]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def make_photo(width: int = 1224, height: int = 817) -> bytes:
    """A JPEG with the detail of a camera's: an upscaled photo has none at the finest scale, so grain stands in for it."""
    path = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
    with Image.open(path) as image:
        large = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(0).normal(0, 8, large.shape)
    buffer = io.BytesIO()
    Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90, subsampling="4:2:0")
    return buffer.getvalue()


def by_pillow(data: bytes, spec: ImageSpec) -> Pixels:
    """What most scripts do: decode, convert, resize the whole photo, crop."""
    assert spec.resize_size is not None
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    scale = spec.resize_size / min(rgb.size)
    wide, high = (int(side * scale) if side != min(rgb.size) else spec.resize_size for side in rgb.size)
    x, y = round((wide - spec.width) / 2), round((high - spec.height) / 2)
    resized = rgb.resize((wide, high), _FILTERS[spec.interpolation])
    return np.asarray(resized.crop((x, y, x + spec.width, y + spec.height)))


def by_torchvision(spec: ImageSpec) -> Callable[[bytes], Pixels]:
    """Its evaluation transforms on Pillow pictures, up to the pixels."""
    assert spec.resize_size is not None
    transform = transforms.Compose(
        [
            transforms.Resize(spec.resize_size, transforms.InterpolationMode(spec.interpolation)),
            transforms.CenterCrop((spec.height, spec.width)),
        ]
    )

    def load(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(transform(image.convert("RGB")))

    return load


def summarize_ms(samples: list[float]) -> dict[str, float]:
    row = summarize(samples)
    return {f"{name}_ms": round(row[name], 3) for name in ("median", "p25", "p75", "min")}


def compare(pixels: Pixels, reference: Pixels) -> dict[str, float]:
    levels = np.abs(pixels.astype(int) - reference)
    return {"max_levels": int(levels.max()), "mean_levels": round(float(levels.mean()), 6)}


def run(interpolation: str, rounds: int) -> dict[str, Any]:
    """One table: the ways, their stages, and their distance from torchvision."""
    spec = ImageSpec(224, 224, 256, interpolation=interpolation)
    data = make_photo()
    reference_way = by_torchvision(spec)
    image = decode(data)
    pixels = load_pixels(data, spec)
    reference = reference_way(data)
    ways: dict[str, Callable[[], object]] = {
        "deploykit": lambda: load_pixels(data, spec),
        "pillow": lambda: by_pillow(data, spec),
        "torchvision": lambda: reference_way(data),
        "stage: deploykit decode": lambda: decode(data),
        "stage: deploykit resize": lambda: resize_and_crop(image, spec),
        "stage: deploykit normalize": lambda: normalize(pixels[None], spec),
    }
    measured = measure_sides({name: in_process(way) for name, way in ways.items()}, rounds=rounds)
    results: dict[str, Any] = {name: summarize_ms(measured.samples(name, "cpu_ms")) for name in ways}
    results["deploykit"] |= compare(pixels, reference)
    results["pillow"] |= compare(by_pillow(data, spec), reference)
    results["torchvision"] |= compare(reference, reference)
    base = results["deploykit"]["median_ms"]
    return {
        "photo": {"width": image.width, "height": image.height, "bytes": len(data)},
        "spec": spec.to_json(),
        "results": results,
        "speedup_over_pillow": round(results["pillow"]["median_ms"] / base, 3),
        "speedup_over_torchvision": round(results["torchvision"]["median_ms"] / base, 3),
    }


def show(table: dict[str, Any]) -> None:
    print(f"{table['photo']} -> 224 x 224, {table['spec']['interpolation']}")
    for name, row in table["results"].items():
        levels = f"max {row['max_levels']} mean {row['mean_levels']:.6f}" if "max_levels" in row else ""
        print(f"  {name:28} {row['median_ms']:7.2f} ms  ({row['p25_ms']:.2f} to {row['p75_ms']:.2f})  {levels}")
    print(f"  deploykit is {table['speedup_over_pillow']:.2f}x Pillow, {table['speedup_over_torchvision']:.2f}x torchvision")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "preprocess.json")
    options = parser.parse_args()
    tables = {name: run(name, options.rounds) for name in ("bilinear", "bicubic")}
    for table in tables.values():
        show(table)
    machine = describe_machine("numpy", "pillow", "torchvision") | {"libjpeg_turbo": features.version_feature("libjpeg_turbo")}
    write_results(options.out, {"machine": machine, "rounds": options.rounds, "clock": "CPU time, one thread", "tables": tables})


if __name__ == "__main__":
    main()
