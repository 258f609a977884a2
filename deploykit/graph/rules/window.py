"""The geometry that convolution and pooling share: where each output's window lies on the input."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Step


@dataclass(frozen=True)
class Window:
    """A sliding window along the spatial axes of [N, C, ...]; every tuple has one number per axis.

    Args:
        kernel: taps.
        strides: input pixels between windows.
        dilations: input pixels between taps.
        begin: padding before the first pixel; ``auto_pad`` is resolved.
        inside, outside: sizes of the dense side (a convolution's input) and of the strided side (its output).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    inside: tuple[int, ...]
    outside: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from a window's first tap to behind its last."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def end(self) -> tuple[int, ...]:
        """Padding behind the last pixel that the windows really reach; negative where they leave pixels unread."""
        reach = [(o - 1) * s + e for o, s, e in zip(self.outside, self.strides, self.extent, strict=True)]
        return tuple(r - b - i for r, b, i in zip(reach, self.begin, self.inside, strict=True))

    def spread(self, step: Step, g: Value, weights: Value, group: int) -> Value:
        """ConvTranspose back onto the dense side: unread pixels at the end receive zeros (``output_padding``)."""
        pads = [*self.begin, *(max(e, 0) for e in self.end)]
        unread = [max(-e, 0) for e in self.end]
        return step.emit.op(
            "ConvTranspose",
            g,
            weights,
            kernel_shape=list(self.kernel),
            strides=list(self.strides),
            dilations=list(self.dilations),
            pads=pads,
            group=group,
            output_padding=unread if any(unread) else None,
        )


def window_of(step: Step, kernel: Sequence[int], inside: Sequence[int], outside: Sequence[int]) -> Window:
    """Read strides, dilations and padding of a Conv, ConvTranspose or pooling node."""
    rank = len(kernel)
    strides = tuple(step.integers("strides", [1] * rank))
    dilations = tuple(step.integers("dilations", [1] * rank))
    auto_pad = step.text("auto_pad", "NOTSET")
    window = Window(tuple(kernel), strides, dilations, (0,) * rank, tuple(inside), tuple(outside))
    if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        totals = [max(e, 0) for e in window.end]
        begin = tuple((t + (auto_pad == "SAME_LOWER")) // 2 for t in totals)
    elif step.integers("output_shape", []):
        begin = tuple(max(e, 0) // 2 for e in window.end)
    else:
        begin = (0,) * rank if auto_pad == "VALID" else tuple(step.integers("pads", [0] * (2 * rank))[:rank])
    return Window(window.kernel, strides, dilations, begin, window.inside, window.outside)
