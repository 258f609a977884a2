"""Labelled pictures through several graphs side by side. In: samples and sessions. Out: an `Evaluation`.

Every picture is decoded once and goes through all graphs in the same batch, so the sides see the same pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deploykit.agreement import Accuracy, Agreement, Paired, add_answers, add_logits, add_pairs, ranks_of
from deploykit.cli.evaluate_data import Sample
from deploykit.errors import ImageError
from deploykit.image import load_pixels
from deploykit.runtime.classifier import run_predict
from deploykit.runtime.session import Session
from deploykit.spec import ImageSpec

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Args:
        accuracy: by side, in the order of the sessions.
        agreement, paired: of each side but the first with the first.
        unreadable: pictures that could not be used.
    """

    accuracy: Mapping[str, Accuracy]
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    paired: Mapping[str, Paired] = field(default_factory=dict)
    unreadable: tuple[ImageError, ...] = ()

    @property
    def images(self) -> int:
        """How many pictures were answered."""
        return next(iter(self.accuracy.values())).images


def evaluate_sessions(
    samples: Sequence[Sample],
    sessions: Mapping[str, Session],
    image: ImageSpec,
    input_kind: str,
    batch_size: int,
    on_picture: Callable[[int], None] | None = None,
) -> Evaluation:
    """Ask every session for every picture.

    Args:
        sessions: by the name of the side; the first is the one that others are compared with.
        on_picture: told after each batch how many more pictures are done.
    """
    first, *others = sessions
    accuracy = dict.fromkeys(sessions, Accuracy())
    agreement, paired = dict.fromkeys(others, Agreement()), dict.fromkeys(others, Paired())
    unreadable: list[ImageError] = []
    for pixels, classes, seen in _batches(samples, image, input_kind, batch_size, unreadable):
        if pixels:
            logits = {name: run_predict(session, image, input_kind, pixels) for name, session in sessions.items()}
            is_right = {name: ranks_of(answer, classes) == 0 for name, answer in logits.items()}
            for name, answer in logits.items():
                accuracy[name] = add_answers(accuracy[name], answer, classes)
            for name in others:
                agreement[name] = add_logits(agreement[name], logits[first], logits[name])
                paired[name] = add_pairs(paired[name], is_right[first], is_right[name])
        if on_picture is not None:
            on_picture(seen)
    return Evaluation(accuracy, agreement, paired, tuple(unreadable))


def _batches(
    samples: Sequence[Sample], image: ImageSpec, input_kind: str, batch_size: int, unreadable: list[ImageError]
) -> Iterator[tuple[list[Pixels], npt.NDArray[np.int64], int]]:
    """Pictures uint8 [H, W, 3], classes int64 [n], and how many files were opened for them."""
    for start in range(0, len(samples), batch_size):
        pixels, classes = [], []
        taken = samples[start : start + batch_size]
        for sample in taken:
            try:
                pixels.append(load_pixels(sample.path, image, input_kind=input_kind))
                classes.append(sample.class_index)
            except ImageError as error:  # noqa: PERF203 decoding costs more
                unreadable.append(error)
        yield pixels, np.array(classes, np.int64), len(taken)
