"""One tensor of logits out of whatever a module returns: a module that gives several in, one that gives its logits alone out."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deploykit.errors import ExportError, UsageError
from deploykit.models.export import eval_mode

OBVIOUS = ("logits", "out", "output", "scores")
"""Names under which libraries return their logits: transformers, torchvision's segmentation, and common habit."""


def with_output(model: nn.Module, path: tuple[str | int, ...]) -> nn.Module:
    """A model that shares everything with another but gives one of the tensors that the other gives.

    Module paths stay as they are, which a module around it would lengthen, and the other keeps its own ``forward``.

    Args:
        path: how to get to the tensor: keys, attributes and indices.
    """
    whole = model.forward

    def forward(x: Tensor) -> Any:
        found = whole(x)
        for step in path:
            found = _step(found, step)
        return found

    reduced = copy.copy(model)
    reduced.forward = forward
    return reduced


def choose_output(model: nn.Module, example: Tensor, wanted: str | None, reference: str) -> nn.Module:
    """The model itself where it returns one tensor; otherwise one that returns the tensor that was asked for, or the obvious one.

    Args:
        example: [N, 3, H, W], to see what the model returns.
        wanted: a name or an index, or several with dots between; None where the user named none.
        reference: for messages.

    Raises:
        UsageError: no such output, or none that is obvious; the message lists what there is.
        ExportError: the model does not run.
    """
    try:
        with eval_mode(model), torch.no_grad():
            returned = model(example)
    except Exception as error:  # whatever forward() raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"{reference} does not run on pictures [{', '.join(map(str, example.shape))}]: {reason}",
            hint="give the size it takes with --image-size",
        ) from error
    if isinstance(returned, Tensor):
        if wanted is not None:
            raise UsageError(f"--scores is {wanted!r}, and {reference} returns a single tensor", hint="leave out --scores")
        return model
    found = {".".join(map(str, path)): (path, tensor) for path, tensor in _tensors(returned, ())}
    listed = ", ".join(f"{name} [{', '.join(map(str, tensor.shape))}]" for name, (_, tensor) in found.items()) or "no tensor"
    if wanted is None:
        candidates = [name for name in OBVIOUS if name in found]
        if not candidates:
            raise UsageError(
                f"{reference} returns a {type(returned).__name__} with {listed}, and which are the logits is not clear",
                hint="say it with --scores NAME",
            )
        wanted = candidates[0]
    if wanted not in found:
        raise UsageError(f"--scores is {wanted!r}, and {reference} returns {listed}")
    return with_output(model, found[wanted][0])


def _tensors(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    """Every tensor inside of what a module returned, with the way to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, (*path, str(key)))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name in value._fields:
            yield from _tensors(getattr(value, name), (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, (*path, index))
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name), (*path, name))


def _step(value: Any, step: str | int) -> Any:
    if isinstance(value, Mapping) or isinstance(step, int):
        return value[step]
    return getattr(value, step)
