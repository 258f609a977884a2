"""Puts a checkpoint's tensors into a model: all of them, into places of their own shape, or not at all."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from deploykit.errors import WeightsError
from deploykit.models.layouts import Layout, name_modules, rename_keys

NAMED = 3  # how many keys of each kind an error names


def module_names(build: Callable[[], nn.Module]) -> list[str]:
    """The names of the modules that hold tensors, found without allocating any."""
    with torch.device("meta"):
        return list(dict.fromkeys(key.rpartition(".")[0] for key in build().state_dict()))


def load_weights(
    build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], layout: Layout, *, head: str, where: str, model_name: str
) -> nn.Module:
    """The model with the tensors as its weights, in eval mode.

    Args:
        build: makes the model; called without allocating memory or drawing random numbers.
        tensors: by the names of the layout.
        layout: how they are named.
        head: the module that makes the logits.
        where: the file, for messages.
        model_name: for messages.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        model = build()
    expected = model.state_dict()
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in expected))
    ours = rename_keys(list(tensors), layout, modules)
    state = {ours[key]: tensor for key, tensor in tensors.items()}
    for key, tensor in expected.items():
        # A training-time counter, absent from files of PyTorch before 0.4.1 and from many others; it changes no answer.
        if key.endswith(".num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=tensor.dtype)
    _check_fit(state, expected, {mine: theirs for theirs, mine in name_modules(layout, modules).items()}, head, where, model_name)
    model.load_state_dict(state, assign=True)
    return model.eval()


def fit_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str, model_name: str) -> list[str]:
    """Put tensors under a model's own names into the model, in place: all of them or none.

    Training frameworks keep the model as an attribute of something else, so all of their keys begin alike (Lightning's ``model.``).
    Such a beginning is left out where the keys fit without it.

    Returns:
        What the user must be told.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    expected = model.state_dict()
    bare, prefix = without_shared_prefix(tensors, expected.__contains__)
    state = type(expected)(bare)
    # The versions of the modules' own formats: without them MNASNet refuses any tensors, and with all names and shapes as they are
    # in the model, the format is the model's.
    state._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    for key, tensor in expected.items():
        if key.endswith(".num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=tensor.dtype)
    _check_fit(state, expected, {}, "", where, model_name)
    model.load_state_dict(state)
    model.eval()
    return [f"every key of {where} begins with {prefix!r}, which is left out"] if prefix else []


def without_shared_prefix(tensors: Mapping[str, Tensor], fits: Callable[[str], bool]) -> tuple[Mapping[str, Tensor], str]:
    """The tensors without a beginning that all keys share, where no key fits with it and some fit without; and that beginning."""
    prefix, bare = "", tensors
    while bare and not any(map(fits, bare)):
        first = next(iter(bare)).partition(".")[0] + "."
        if first == "." or not all(key.startswith(first) for key in bare):
            return tensors, ""
        prefix += first
        bare = {key.removeprefix(first): tensor for key, tensor in bare.items()}
    return bare, prefix


def head_classes(model: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """The number of classes of a checkpoint whose only difference to the model is the width of its heads; None otherwise.

    Heads are several where a model has auxiliary ones, as Inception v3: all have one width in the model, and one in the checkpoint.
    """
    expected = model.state_dict()
    bare, _ = without_shared_prefix(tensors, expected.__contains__)
    wrong = [key for key, tensor in expected.items() if key in bare and bare[key].shape != tensor.shape]
    if any(not bare[key].ndim or bare[key].shape[1:] != expected[key].shape[1:] for key in wrong):
        return None
    changes = {(expected[key].shape[0], bare[key].shape[0]) for key in wrong}
    return int(changes.pop()[1]) if len(changes) == 1 else None


def state_digest(model: nn.Module) -> str:
    """The sha256 of a model's weights: of their names and bytes, in order."""
    digest = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    their_modules: Mapping[str, str],
    head: str,
    where: str,
    model_name: str,
) -> None:
    def spell(key: str) -> str:
        module, _, tensor = key.rpartition(".")
        return f"{their_modules.get(module, module)}.{tensor}"

    missing = [spell(key) for key in expected if key not in state]
    unexpected = [spell(key) for key in state if key not in expected]
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    misshapen = [f"{spell(key)} is {_shape(state[key])}, expected {_shape(expected[key])}" for key in wrong]
    if not (missing or unexpected or misshapen):
        return
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    counts = "; ".join(f"{len(found)} {kind} ({_first(found)})" for kind, found in kinds if found)
    if not missing and not unexpected and {key.rpartition(".")[0] for key in wrong} == {head}:
        classes = expected[f"{head}.weight"].shape[0]
        their_head = their_modules.get(head, head)
        raise WeightsError(
            f"the head of {where}, {their_head}, does not have {classes} classes: {_first(misshapen)}",
            hint="leave the number of classes out to take the checkpoint's own",
        )
    raise WeightsError(
        f"{where} does not fit {model_name}: of {len(expected)} tensors, {counts}",
        hint="check that the model's name is the one that was trained; nothing is ever loaded in part",
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
