"""From a layer's activations and gradients to one raw map per image: Grad-CAM and its relatives, in numpy.

Symbols: A_c = activations of channel c, g_c = gradients of it = d logit / d A_c, both float32 [N, C, h, w]; S_c = sum_hw(A_c).
Every method gives max(0, evidence) as float32 [N, h, w], not scaled: what speaks for the class is kept, what speaks against it is
dropped. `deploykit.runtime.maps.normalize_map` scales.

Each row of a batch is its own image: no method mixes rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploykit.errors import InputError, UsageError

Floats = npt.NDArray[np.float32]

_PIXELS = (2, 3)

_CONSTANT = 1e-4
"""By how much of its largest a row's gradients may differ over h and w and still count as constant. Rounding gives 1e-7."""

_STILL = 1e-6
"""How far, relative to the largest activation, a principal component must reach to be more than the rounding of float32."""


@dataclass(frozen=True)
class Method:
    """One way to a map.

    Args:
        reads: the outputs of the explain graph that it needs, and no others are copied back.
        compute: these outputs, in that order, to the raw map [N, h, w].
        paper: where it comes from.
    """

    reads: tuple[str, ...]
    compute: Callable[..., Floats]
    paper: str


def grad_cam(activations: Floats, gradients: Floats) -> Floats:
    """Grad-CAM: max(0, sum_c mean_hw(g_c) A_c). The explain graph computes the same as its output ``cam``.

    Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2.
    """
    _check(activations, gradients)
    return _weighted(gradients.mean(_PIXELS, dtype=np.float32), activations)


def grad_cam_plus_plus(activations: Floats, gradients: Floats) -> Floats:
    """Grad-CAM++: max(0, sum_c w_c A_c) with w_c = sum_hw(alpha_c max(0, g_c)), alpha_c = g_c^2 / (2 g_c^2 + S_c g_c^3).

    Chattopadhay et al. 2018, arXiv 1710.11063, equation 19: the class score is exp(logit), whose second and third derivatives are
    exp(logit) g^2 and exp(logit) g^3 where the layers behind are piecewise linear; the common factor only scales the map.

    alpha is computed as 1 / (2 + S_c g_c), which is the same number without powers of g that fall below float32. It is 0 where g_c
    is 0 (then its weight is 0 too) and where the denominator is 0, which needs activations below 0, that the paper excludes.

    pytorch-grad-cam adds 1e-6 to 2 g^2 + S g^3, so for gradients below 1e-3, which pooling over 7 x 7 gives, its alpha is nearly
    g^2 / 1e-6: weights grow with g^3, and the map depends on the scale of the logits. torch-cam sums A g^3 in place of A.
    """
    _check(activations, gradients)
    denominator = 2 + activations.sum(_PIXELS, keepdims=True, dtype=np.float32) * gradients
    alpha = np.divide(1, denominator, out=np.zeros_like(gradients), where=(denominator != 0) & (gradients != 0))
    return _weighted((alpha * np.maximum(gradients, 0)).sum(_PIXELS, dtype=np.float32), activations)


def xgrad_cam(activations: Floats, gradients: Floats) -> Floats:
    """XGrad-CAM: max(0, sum_c w_c A_c) with w_c = sum_hw(A_c g_c) / S_c; 0 where S_c is 0.

    Fu et al. 2020, arXiv 2008.02312, equation 8. Made for activations of one sign: where SiLU or a bare normalization gives both,
    S_c can come close to 0 and one channel fills the map. pytorch-grad-cam adds 1e-7 to S_c.
    """
    _check(activations, gradients)
    total = activations.sum(_PIXELS, dtype=np.float32)
    weights = np.divide((activations * gradients).sum(_PIXELS, dtype=np.float32), total, out=np.zeros_like(total), where=total != 0)
    return _weighted(weights, activations)


def layer_cam(activations: Floats, gradients: Floats) -> Floats:
    """LayerCAM: max(0, sum_c max(0, g_c) A_c), each place weighted by its own gradient, so that it serves early layers too.

    Jiang et al. 2021, IEEE TIP 30, doi 10.1109/TIP.2021.3089943, equations 5 to 7.
    """
    _check(activations, gradients)
    return _positive((np.maximum(gradients, 0) * activations).sum(1, dtype=np.float32))


def hires_cam(activations: Floats, gradients: Floats) -> Floats:
    """HiResCAM: max(0, sum_c g_c A_c). Behind it a linear layer, its sum before the max is the logit without the bias.

    Draelos and Carin 2020, arXiv 2011.08891, section 3.3.
    """
    _check(activations, gradients)
    return _positive((gradients * activations).sum(1, dtype=np.float32))


def eigen_cam(activations: Floats) -> Floats:
    """Eigen-CAM: max(0, projection of the activations on their first principal component); no class enters.

    Muhammad and Yeasin 2020, arXiv 2008.00299. Each image's activations are a matrix [h w, C]; every channel's mean is subtracted,
    as pytorch-grad-cam does, and the rows are projected on the first right singular vector.

    Its sign is arbitrary in mathematics. Here the side that reaches further from 0 is positive (Chung and Ying 2025, doi
    10.3390/app15137562, equation 13), so a small object on a wide background lights up, and the map does not depend on the SVD's
    implementation. pytorch-grad-cam takes whatever sign the SVD returns. A layer that does not vary gives zeros.
    """
    _check(activations)
    count, channels, height, width = activations.shape
    rows = activations.reshape(count, channels, height * width).astype(np.float64)
    rows -= rows.mean(2, keepdims=True)
    # The projection is U[:, 0] * S[0]: an eigenvector of the hw x hw matrix of inner products, which is far smaller than [hw, C].
    values, vectors = np.linalg.eigh(rows.transpose(0, 2, 1) @ rows) if height * width <= channels else _by_channels(rows)
    projection = vectors[..., -1] * np.sqrt(np.maximum(values[:, -1:], 0))
    projection[np.abs(projection).max(1) <= _STILL * np.abs(activations).max((1, 2, 3))] = 0
    flipped = -projection.min(1, keepdims=True) > projection.max(1, keepdims=True)
    return _positive(np.where(flipped, -projection, projection).reshape(count, height, width))


def class_activation_map(activations: Floats, gradients: Floats) -> Floats:
    """CAM: max(0, sum_c w_c A_c) with w_c = the class's row of the linear layer, where only average pooling stands before it.

    Zhou et al. 2016, arXiv 1512.04150, section 2. There g_c = w_c / (h w) at every place, so w_c = sum_hw(g_c). The paper keeps
    what is below 0; here the max applies as everywhere. A head with hidden layers behind the pooling has constant gradients too;
    its w_c is that of its linearization at this image.

    Raises:
        UsageError: the gradients are not constant over the layer, so the head is another one.
    """
    _check(activations, gradients)
    spread = (gradients.max(_PIXELS) - gradients.min(_PIXELS)).max(1)
    largest = np.abs(gradients).max((1, 2, 3))
    if (varying := spread > _CONSTANT * largest).any():
        row = int(varying.argmax())
        raise UsageError(
            "cam needs average pooling and a linear layer right behind the layer; "
            f"here gradients vary over it by {spread[row]:.1e}, the largest is {largest[row]:.1e}",
            hint="take grad-cam, which equals cam where cam exists; or the last layer before the pooling",
        )
    return _weighted(gradients.sum(_PIXELS, dtype=np.float32), activations)


def _from_graph(cam: Floats) -> Floats:
    """Grad-CAM as the explain graph computed it."""
    _check_finite("cam", cam)
    return cam


METHODS: Mapping[str, Method] = {
    "grad-cam": Method(("cam",), _from_graph, "arXiv 1610.02391"),
    "grad-cam++": Method(("activations", "gradients"), grad_cam_plus_plus, "arXiv 1710.11063"),
    "xgrad-cam": Method(("activations", "gradients"), xgrad_cam, "arXiv 2008.02312"),
    "layer-cam": Method(("activations", "gradients"), layer_cam, "doi 10.1109/TIP.2021.3089943"),
    "hires-cam": Method(("activations", "gradients"), hires_cam, "arXiv 2011.08891"),
    "eigen-cam": Method(("activations",), eigen_cam, "arXiv 2008.00299"),
    "cam": Method(("activations", "gradients"), class_activation_map, "arXiv 1512.04150"),
}
"""The methods that need no more than the explain graph, by the name that users give."""


def _weighted(weights: Floats, activations: Floats) -> Floats:
    """max(0, sum_c w_c A_c), weights [N, C]."""
    return _positive(np.einsum("nc,nchw->nhw", weights, activations))


def _positive(evidence: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(np.maximum(evidence, 0), np.float32)


def _by_channels(rows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The same eigenpairs from the C x C matrix, for rows [N, C, hw] with more places than channels."""
    values, vectors = np.linalg.eigh(rows @ rows.transpose(0, 2, 1))
    values, first = values[:, -1:], vectors[..., -1:]
    length = np.sqrt(np.maximum(values[..., None], np.finfo(np.float64).tiny))
    return values, rows.transpose(0, 2, 1) @ first / length


def _check(activations: Floats, gradients: Floats | None = None) -> None:
    """Refuse what would become a wrong map, or one of NaN.

    Raises:
        InputError: another rank, shapes that differ, NaN or infinity.
    """
    if activations.ndim != 4:
        raise InputError(f"activations have shape {list(activations.shape)}, expected [N, C, h, w]")
    _check_finite("activations", activations)
    if gradients is not None:
        if gradients.shape != activations.shape:
            raise InputError(f"gradients have shape {list(gradients.shape)}, activations {list(activations.shape)}; expected equal")
        _check_finite("gradients", gradients)


def _check_finite(name: str, array: Floats) -> None:
    # min and max pass over the array without a copy, and NaN or infinity shows in one of them.
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        rows = [i for i, row in enumerate(array) if not np.isfinite(row).all()]
        raise InputError(
            f"{name} hold NaN or infinity in {len(rows)} of {len(array)} rows, first in row {rows[0]}",
            hint="a graph at fp16 may have overflowed: try --precision fp32; look for a diverged checkpoint",
        )
