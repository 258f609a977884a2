"""The bundle of `tests.unit.bright_bundle`, whose graphs resize photos themselves, and its plans on a GPU that is not there.

The graphs are those that ``export --embed-resize`` would write, the golden vectors their own answers.
"""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploykit.bundle import Bundle, new_bundle
from deploykit.graph.pixels import IMAGE_NAME, embed_resize
from deploykit.graph.resize_normalize import make_resize_graph
from deploykit.parity import sample_pictures
from deploykit.plan import BatchRange, read_record
from deploykit.runtime import OrtSession
from deploykit.runtime.session import TensorInfo
from deploykit.runtime.trt import LoadedPlan
from deploykit.trt import Flavour
from deploykit.trt.engine import PlanTensor
from tests.recording_device import GPU, RecordingDevice
from tests.recording_engine import RecordingEngine
from tests.unit.bright_bundle import SPEC, described_as, make_bundle

PHOTOS = tuple(sample_pictures(1, *size, seed=seed)[0] for seed, size in enumerate(((70, 50), (45, 61), (90, 96), (33, 40))))
"""Of sizes of their own, uint8 [H, W, 3]; their sides lie between 33 and 96."""


def make_photo_bundle(path: Path) -> Bundle:
    """Write it."""
    plain = make_bundle(path.with_name(f"{path.name}-pixels"))
    with new_bundle(path, **{**described_as(plain.manifest), "input": "photo"}) as stage:
        graphs: dict[str, bytes] = {}
        for name in ("predict", "explain", "explain_tail"):
            graph = onnx.load(plain.file(f"fp32/{name}.onnx"))
            takes_image = IMAGE_NAME in {i.name for i in graph.graph.input}
            graphs[name] = (embed_resize(graph, SPEC) if takes_image else graph).SerializeToString()
            stage.add(f"fp32/{name}.onnx", graphs[name])
        stage.add("labels.txt", plain.file("labels.txt").read_bytes())
        stage.add("golden.npz", _golden(graphs["explain"]))
    return Bundle.open(path)


def _golden(explain: bytes) -> bytes:
    photos, packed = sample_pictures(3, 45, 61, seed=9), io.BytesIO()
    with OrtSession(make_resize_graph(SPEC).SerializeToString()) as resize, OrtSession(explain) as session:
        levels = [resize.run({"image": photo[None]})["levels"] for photo in photos]
        answers = [session.run({"image": photo[None], "class_index": np.array([-1])}) for photo in photos]
    resized = np.concatenate(levels).transpose(0, 2, 3, 1).astype(np.uint8)
    logits, explained, cam = (np.concatenate([answer[n] for answer in answers]) for n in ("logits", "explained_class", "cam"))
    np.savez(packed, image=photos, resized=resized, logits=logits, explained_class=explained, cam=cam)
    return packed.getvalue()


def stand_in_for_gpu(patch: pytest.MonkeyPatch, bundle: Bundle, version: str) -> RecordingDevice:
    """An A10 with TensorRT for RTX, where plans compute what ONNX Runtime makes of the graphs they were built from, one
    photo a run, as large as their record says."""
    device = RecordingDevice()

    def load(path: Path, ordinal: int, plugins: tuple[Path, ...]) -> LoadedPlan:
        record = read_record(path.parent)
        assert record is not None
        assert record.sides is not None
        sides, session = (
            (record.sides.min, record.sides.max),
            OrtSession(bundle.file(record.files[path.name].graph), threads=1),
        )
        tensors = [_tensor(info, is_input=True, sides=sides) for info in session.inputs]
        tensors += [_tensor(info, is_input=False, sides=sides) for info in session.outputs]
        return LoadedPlan(RecordingEngine(device, tuple(tensors), BatchRange(1, 1, 1), session.run), device, GPU)

    for module in ("runtime.plans", "cli.verify_plans"):
        patch.setattr(f"deploykit.{module}.find_gpu", lambda ordinal=0: GPU)
        patch.setattr(f"deploykit.{module}.load_flavour", lambda backend: Flavour(backend, version, None))
    patch.setattr("deploykit.cli.build_timing.find_gpu", lambda: GPU)
    patch.setattr("deploykit.runtime.trt.load_plan", load)
    return device


def _tensor(info: TensorInfo, *, is_input: bool, sides: tuple[int, int]) -> PlanTensor:
    least, greatest = (tuple(end if isinstance(d, str) else d for d in info.shape[1:]) for end in sides)
    return PlanTensor(info.name, is_input, info.dtype, greatest, least if least != greatest else None)
