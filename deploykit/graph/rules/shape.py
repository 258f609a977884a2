"""Gradients of operators that move numbers: the adjoint moves them back, and adds up where one was copied."""

import numpy as np
import numpy.typing as npt

from deploykit.graph.rules.emit import Value
from deploykit.graph.rules.step import Rule, Step


def reshape(step: Step) -> Value:
    """Reshape, Flatten, Squeeze, Unsqueeze: dx = g in the shape of x."""
    return step.emit.reshape_like(step.g, step.node.input[0])


def transpose(step: Step) -> Value:
    """dx = g under the inverse permutation."""
    rank = len(step.shape())
    perm = step.integers("perm", range(rank)[::-1])
    return step.emit.transpose(step.g, [perm.index(i) for i in range(rank)])


def concat(step: Step) -> dict[int, Value]:
    """Each input receives its slice of g."""
    axis = step.integer("axis", 0) % len(step.out)
    lengths = [step.sizes(step.shape(i), [axis])[0] for i in range(len(step.node.input))]
    starts = np.cumsum([0, *lengths])
    emit = step.emit
    return {
        i: emit.op("Slice", step.g, emit.ints([starts[i]]), emit.ints([starts[i + 1]]), emit.ints([axis]))
        for i in sorted(step.wanted)
    }


def split(step: Step) -> Value:
    """dx = the gradients of the pieces side by side; a piece that the score ignores counts as zeros."""
    emit, rank = step.emit, len(step.shape())
    axis = step.integer("axis", 0) % rank
    lengths = [step.sizes(emit.tensors.shape(name), [axis])[0] for name in step.node.output]
    given = [g for g in step.grads if g is not None]
    if len(given) == len(lengths):
        return emit.op("Concat", *given, axis=axis)
    starts = np.cumsum([0, *lengths])
    total = int(starts[-1])
    parts = [
        _pad_axis(step, g, axis, int(starts[i]), total - int(starts[i + 1]), rank)
        for i, g in enumerate(step.grads)
        if g is not None
    ]
    return sum(parts[1:], parts[0])


def slice_(step: Step) -> Value:
    """dx = g at the pixels that were taken, zeros elsewhere; any step, also backwards."""
    rank, dx = len(step.shape()), step.g
    starts, ends = (step.constant(i).reshape(-1) for i in (1, 2))
    axes = [int(a) % rank for a in (step.constant(3).reshape(-1) if step.has(3) else range(len(starts)))]
    steps = step.constant(4).reshape(-1) if step.has(4) else np.ones(len(starts), dtype=np.int64)
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(step.shape()[axis], int) and start == 0 and stride == 1 and int(end) >= np.iinfo(np.int32).max:
            continue  # all of the batch
        (size,) = step.sizes(step.shape(), [axis])
        taken = np.arange(size)[_python_slice(int(start), int(end), int(stride), size)]
        dx = spread_indices(step, dx, taken, size, axis, rank)
    return dx


def gather(step: Step) -> Value:
    """dx = g added at the gathered indices, which must be constants."""
    shape = step.shape()
    rank = len(shape)
    axis = step.integer("axis", 0) % rank
    indices = step.constant(1).astype(np.int64)
    (size,) = step.sizes(shape, [axis])
    indices, g = indices % size, step.g
    if indices.ndim == 0:
        g = step.emit.op("Unsqueeze", g, step.emit.ints([axis]))
    elif indices.ndim > 1:
        dims = [d if isinstance(d, int) else -1 for d in (*shape[:axis], indices.size, *shape[axis + 1 :])]
        if dims.count(-1) > 1:
            raise step.unsupported(f"its shape {list(shape)} has more than one dynamic dimension")
        g = step.emit.reshape(g, dims)
    return spread_indices(step, g, indices.reshape(-1), size, axis, rank)


def gather_nd(step: Step) -> Value:
    """dx = g added at the gathered positions of the leading axes, which must be constants: how adaptive pooling is exported."""
    shape, indices = step.shape(), step.constant(1).astype(np.int64)
    depth = indices.shape[-1]
    if step.integer("batch_dims", 0):
        raise step.unsupported("batch_dims has no rule")
    sizes = step.sizes(shape, range(depth))
    rest = [d if isinstance(d, int) else -1 for d in shape[depth:]]
    if rest.count(-1) > 1:
        raise step.unsupported(f"its shape {list(shape)} has more than one dynamic dimension")
    positions = np.moveaxis(indices, -1, 0).reshape(depth, -1) % np.array(sizes)[:, None]
    taken = np.ravel_multi_index(tuple(positions), sizes)
    g = step.emit.reshape(step.g, [len(taken), *rest])
    return step.emit.reshape_like(spread_indices(step, g, taken, int(np.prod(sizes)), 0, 1 + len(rest)), step.node.input[0])


def expand(step: Step) -> Value:
    """dx = g summed over the axes that were stretched."""
    return step.emit.sum_to(step.g, step.out, step.shape())


def tile(step: Step) -> Value:
    """dx = g summed over the repeats: axis by axis, [r d] is read as [r, d] and summed over r."""
    emit, g, shape = step.emit, step.g, step.out
    for axis, repeats in enumerate(int(r) for r in step.constant(1)):
        if repeats == 1:
            continue
        (size,) = step.sizes(step.shape(), [axis])
        dims = [d if isinstance(d, int) else -1 for d in (*shape[:axis], repeats, size, *shape[axis + 1 :])]
        g = emit.sum(emit.reshape(g, dims), [axis], keepdims=False)
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    return g


def pad(step: Step) -> Value:
    """constant: dx = g cropped. reflect, edge, wrap: padding copies pixels, and dx adds the gradients of the copies."""
    shape = step.shape()
    rank, mode = len(shape), step.text("mode", "constant")
    axes = [int(a) % rank for a in step.constant(3).reshape(-1)] if step.has(3) else list(range(rank))
    pads = [int(p) for p in step.constant(1).reshape(-1)]
    padded = [(a, b, e) for a, b, e in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True) if b or e]
    dx = step.g
    if mode == "constant":
        opposite = {axis: (-begin, -end) for axis, begin, end in padded}
        ends = [opposite.get(axis, (0, 0)) for axis in range(rank)]
        return step.emit.shift_ends(dx, [b for b, _ in ends], [e for _, e in ends])
    for axis, begin, end in padded:
        (size,) = step.sizes(shape, [axis])
        source = np.pad(np.arange(size), (max(begin, 0), max(end, 0)), mode=mode)  # type: ignore[call-overload]
        source = source[max(-begin, 0) : len(source) - max(-end, 0)]
        dx = spread_indices(step, dx, source, size, axis, rank)
    return dx


def depth_to_space(step: Step) -> Value:
    """dx: the inverse move, space to depth; CRD order by reshaping, since SpaceToDepth knows only DCR."""
    block = step.integer("blocksize", 1)
    if step.text("mode", "DCR") == "DCR":
        return step.emit.op("SpaceToDepth", step.g, blocksize=block)
    channels, height, width = step.sizes(step.out, [1, 2, 3])
    g = step.emit.reshape(step.g, [-1, channels, height // block, block, width // block, block])
    g = step.emit.transpose(g, [0, 1, 3, 5, 2, 4])
    return step.emit.reshape(g, [-1, channels * block * block, height // block, width // block])


def space_to_depth(step: Step) -> Value:
    """dx: the inverse move, depth to space."""
    return step.emit.op("DepthToSpace", step.g, blocksize=step.integer("blocksize", 1), mode="DCR")


def spread_indices(step: Step, g: Value, taken: npt.NDArray[np.int64], size: int, axis: int, rank: int) -> Value:
    """The adjoint of taking indices along an axis: [.., len(taken), ..] -> [.., size, ..].

    A contiguous run is padded, distinct indices are gathered back beside one slot of zeros, and repeated ones are added by a
    constant one-hot matrix.
    """
    emit = step.emit
    if np.array_equal(taken, np.arange(taken[0], taken[0] + len(taken))):
        return _pad_axis(step, g, axis, int(taken[0]), size - int(taken[0]) - len(taken), rank)
    if len(set(taken.tolist())) < len(taken):
        return emit.apply_matrix(g, np.eye(size)[taken], axis, rank)
    inverse = np.full(size, len(taken))
    inverse[taken] = np.arange(len(taken))
    if len(taken) < size:
        g = _pad_axis(step, g, axis, 0, 1, rank)
    return emit.op("Gather", g, emit.ints(inverse.tolist()), axis=axis)


def _pad_axis(step: Step, g: Value, axis: int, begin: int, end: int, rank: int) -> Value:
    """Zeros before and behind along one axis."""
    return step.emit.shift_ends(g, [begin * (i == axis) for i in range(rank)], [end * (i == axis) for i in range(rank)])


def _python_slice(start: int, end: int, stride: int, size: int) -> slice:
    """ONNX clamps bounds after adding the size to negative ones; Python's None stands for an end before the first element."""
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if stride > 0:
        return slice(max(start, 0), max(end, 0), stride)
    return slice(min(start, size - 1), None if end < 0 else end, stride)


RULES: dict[str, Rule] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "GatherND": gather_nd,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
