"""How a graph's tensors and batches become Triton's: the rules by which it refuses a model, applied before it is asked.

With ``max_batch_size`` 1 or more the dims leave the batch axis out, and the model must take every batch up to that size, 1
included; with 0 the dims are the whole shape and nothing is batched. So a graph whose first axis is fixed gets 0, a plan at most
its profile's maximum, and a wish for more is an error here and not when the server starts.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md#maximum-batch-size
"""

from collections.abc import Sequence
from typing import Protocol

from deploykit.errors import UsageError
from deploykit.integrations.triton.config import ModelConfig, ModelTensor
from deploykit.plan import BatchRange

DEFAULT_MAX_BATCH = 8
"""For graphs, which take any batch. The explain graph's answer for 8 pictures of EfficientNet-B3 is 5 MB."""


class GraphTensor(Protocol):
    """An input or output as its file describes it: a number where a dimension is fixed, a name where it is not."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int | str, ...]: ...


def find_max_batch(
    inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor], wish: int | None = None, profile: BatchRange | None = None
) -> int:
    """``max_batch_size`` of a model: 0 where its file has no batch axis of any length.

    Args:
        wish: what was asked for; None takes all of the profile, or `DEFAULT_MAX_BATCH`.
        profile: of a plan.

    Raises:
        UsageError: the wish does not fit the file, or the profile has no batch of 1.
    """
    tensors = [*inputs, *outputs]
    fixed = [tensor for tensor in tensors if not tensor.shape or isinstance(tensor.shape[0], int)]
    if fixed:
        if wish is not None and not all(tensor.shape and tensor.shape[0] == wish for tensor in tensors):
            raise UsageError(
                f"max batch is {wish}, and {_describe(fixed[0])} has no batch axis of any length: Triton would refuse the model",
                hint="export the model with a dynamic batch axis, or leave --max-batch out: then nothing is batched",
            )
        return 0
    if profile is None:
        return DEFAULT_MAX_BATCH if wish is None else wish
    if profile.min > 1:
        raise UsageError(
            f"the plan takes batches of {profile.min} to {profile.max}, and Triton passes single requests on",
            hint=f"build one that begins at 1: deploykit build BUNDLE --batch 1:{profile.opt}:{profile.max}",
        )
    if wish is not None and wish > profile.max:
        raise UsageError(
            f"max batch is {wish}, the plan takes at most {profile.max}: Triton would refuse the model",
            hint=f"build a larger one: deploykit build BUNDLE --batch 1:{profile.opt}:{wish}; or ask for {profile.max} or less",
        )
    return profile.max if wish is None else wish


def model_tensor(tensor: GraphTensor, max_batch: int, label_filename: str | None = None) -> ModelTensor:
    """A graph's tensor as Triton's config names it.

    Without dims there is nothing to write, so a tensor [N] becomes [N, 1] for the clients and is reshaped for the model.
    """
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in (tensor.shape[1:] if max_batch else tensor.shape))
    return ModelTensor(tensor.name, tensor.dtype, dims or (1,), None if dims else (), label_filename)


def check_against(config: ModelConfig, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> None:
    """Hold a config against the file that it describes, as Triton does when it loads the model.

    Raises:
        UsageError: a tensor of another name, type or shape; or batches that the file does not take.
    """
    for which, tensors, described in (("inputs", config.inputs, inputs), ("outputs", config.outputs, outputs)):
        seen = {tensor.name: tensor for tensor in described}
        if {t.name for t in tensors} != set(seen):
            raise UsageError(f"{config.name}: {which} are {', '.join(t.name for t in tensors)}, the file has {', '.join(seen)}")
        for tensor in tensors:
            _check_tensor(config, tensor, seen[tensor.name])


def _check_tensor(config: ModelConfig, tensor: ModelTensor, seen: GraphTensor) -> None:
    own = tensor.dims if tensor.reshape is None else tensor.reshape
    whole = (-1, *own) if config.max_batch else own
    matches = len(whole) == len(seen.shape) and all(
        dim == (has if isinstance(has, int) else -1) for dim, has in zip(whole, seen.shape, strict=True)
    )
    if not matches or tensor.dtype != seen.dtype:
        raise UsageError(f"{config.name}: config says {tensor.name} {tensor.dtype} {list(whole)}, the file has {_describe(seen)}")


def _describe(tensor: GraphTensor) -> str:
    return f"{tensor.name} {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"
