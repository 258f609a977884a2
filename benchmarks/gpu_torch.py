"""What torch takes for the same calls on the GPU: eager and compiled with CUDA graphs, from host pixels to host logits.

    python -m benchmarks.gpu_torch MODEL fp32|fp16 BATCH...

Prints JSON: side -> batch -> milliseconds. TF32 is off, as in the plans; memory is channels-last, which torch is faster with.
"""

import json
import sys
from collections.abc import Callable

import torch

from benchmarks.report import say
from deploykit.benchmark.rounds import measure_sides
from deploykit.benchmark.timing import in_process
from deploykit.models.registry import load_model
from deploykit.parity import sample_pictures

Forward = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    name, precision, *batches = sys.argv[1:]
    if not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    dtype = torch.float16 if precision == "fp16" else torch.float32
    loaded = load_model(name)
    model = loaded.model.eval().cuda().to(dtype).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values, device="cuda").view(1, 3, 1, 1) for values in (loaded.image.mean, loaded.image.std))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        image = ((pixels.permute(0, 3, 1, 2) / 255 - mean) / std).to(dtype)
        logits: torch.Tensor = model(image.contiguous(memory_format=torch.channels_last)).float()
        return logits

    compiled: Forward = torch.compile(forward, mode="reduce-overhead", dynamic=False)
    found: dict[str, dict[str, float]] = {"torch eager": {}, "torch.compile": {}}
    for batch in map(int, batches):
        pinned = torch.from_numpy(sample_pictures(batch, loaded.image.height, loaded.image.width)).pin_memory()
        sides = {side: in_process(_call(run, pinned)) for side, run in zip(found, (forward, compiled), strict=True)}
        say(f"{name} {precision} batch {batch}")
        with torch.inference_mode():
            measured = measure_sides(sides, rounds=10, burst_ms=50, settle_ms=20)
        for side in found:
            samples = sorted(measured.samples(side))
            found[side][str(batch)] = round(samples[len(samples) // 2], 4)
    print(json.dumps(found))


def _call(run: Forward, pinned: torch.Tensor) -> Callable[[], object]:
    # .cpu() waits for the GPU, so a call is over when its logits stand in host memory.
    return lambda: run(pinned.to("cuda", non_blocking=True)).cpu()


if __name__ == "__main__":
    main()
