"""Which release of NVIDIA's Triton container fits a plan, as far as that is known for certain, and from where.

A plan loads in the TensorRT that built it. Each monthly release has one TensorRT; NVIDIA's table of them is
https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html. Only pairs that a source states stand here, so a version
that is missing is unknown to deploykit, which says so and how to find out, and guesses nothing.
"""

from dataclasses import dataclass

IMAGE = "nvcr.io/nvidia/tritonserver"
AS_OF = "2026-11-25"
NEWEST = "26.07"
"""The newest release that the compatibility page named then. Its ONNX Runtime is 1.27.0, its Python 3.12."""

COMPATIBILITY = "https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md"
SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"
_ALIGNED = "NVIDIA/TensorRT-LLM, docker/common/install_tensorrt.sh, which follows the PyTorch container of that month"

# TensorRT's version without its build number -> release, source.
_RELEASES = {
    "10.8.0": ("25.01", _ALIGNED),
    "10.13.2": ("25.08", _ALIGNED),
    "10.13.3": ("25.10", f"{COMPATIBILITY} (images on the containers of that month)"),
    "10.14.1": ("25.12", f"{_ALIGNED}; {COMPATIBILITY}"),
}


@dataclass(frozen=True)
class Container:
    """The image to start.

    Args:
        image: with its tag.
        why: one sentence.
        is_certain: whether a page of Triton's says that a plan of this TensorRT belongs there; another source is a hint.
    """

    image: str
    why: str
    is_certain: bool


def find_container(tensorrt: str | None) -> Container:
    """The image for plans of a TensorRT version such as ``10.13.3.9``; without one (graphs, Python models) the newest."""
    newest = f"{IMAGE}:{NEWEST}-py3"
    if tensorrt is None:
        return Container(newest, f"the newest release that {COMPATIBILITY} names", True)
    release, source = _RELEASES.get(".".join(tensorrt.split(".")[:3]), ("", ""))
    if not release:
        return Container(
            f"{IMAGE}:<YY.MM>-py3",
            f"deploykit does not know which release has TensorRT {tensorrt}: look it up in {SUPPORT_MATRIX}",
            False,
        )
    return Container(
        f"{IMAGE}:{release}-py3", f"TensorRT {tensorrt} belongs to {release}, according to {source}", COMPATIBILITY in source
    )
