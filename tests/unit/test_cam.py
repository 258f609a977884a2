"""Raw maps of every method, on numbers small enough to check by eye; case O24."""

import numpy as np
import numpy.typing as npt
import pytest

from deploykit.errors import InputError, UsageError
from deploykit.runtime.cam import (
    METHODS,
    class_activation_map,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)

Floats = npt.NDArray[np.float32]

WITH_GRADIENTS = (grad_cam, grad_cam_plus_plus, xgrad_cam, layer_cam, hires_cam)


def array(values: object) -> Floats:
    return np.array(values, np.float32)


# One image, two channels, two places side by side.
A = array([[[[1, 3]], [[2, 0]]]])
G = array([[[[2, 0]], [[-1, 1]]]])


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_grad_cam_weighs_channels_by_their_mean_gradient() -> None:
    # Weights: mean(2, 0) = 1 and mean(-1, 1) = 0.
    assert grad_cam(A, G).tolist() == [[[1, 3]]]


def test_hires_cam_multiplies_place_by_place_and_keeps_what_speaks_for_the_class() -> None:
    # 2 x 1 - 1 x 2 = 0 and 0 x 3 + 1 x 0 = 0; with the signs of channel 2 turned: 4 and 0.
    assert hires_cam(A, G).tolist() == [[[0, 0]]]
    assert hires_cam(A, G * array([1, -1])[None, :, None, None]).tolist() == [[[4, 0]]]


def test_layer_cam_drops_gradients_below_0_before_the_product() -> None:
    # max(0, 2) x 1 + max(0, -1) x 2 = 2.
    assert layer_cam(A, G).tolist() == [[[2, 0]]]


def test_xgrad_cam_weighs_channels_by_their_gradient_where_they_are_active() -> None:
    # Weights: (1 x 2 + 3 x 0) / 4 = 0.5 and (2 x -1) / 2 = -1.
    assert xgrad_cam(A, G).tolist() == [[[0, 1.5]]]


def test_xgrad_cam_gives_a_channel_that_sums_to_0_no_weight() -> None:
    assert xgrad_cam(array([[[[1, -1]]]]), array([[[[5, 5]]]])).tolist() == [[[0, 0]]]


def test_grad_cam_plus_plus_follows_equation_19_of_its_paper() -> None:
    # alpha = g^2 / (2 g^2 + S g^3): 4 / (8 + 4 x 8) = 0.1 with S = 4, and 1 / (2 + 2) = 0.25 with S = 2 for the positive one.
    # Weights: 0.1 x 2 = 0.2 and 0.25 x 1 = 0.25.
    expected = 0.2 * A[0, 0] + 0.25 * A[0, 1]
    np.testing.assert_allclose(grad_cam_plus_plus(A, G)[0], expected, rtol=1e-6)  # a few roundings of float32


def test_grad_cam_plus_plus_does_not_lose_gradients_whose_cube_is_below_float32() -> None:
    # g = 1e-20: g^2 = 1e-40 and g^3 = 0 in float32. alpha is 1 / 2 as S g is nothing beside 2, so the map is that of g / 2.
    cam = grad_cam_plus_plus(A, array([[[[1e-20, 0]], [[0, 0]]]]))
    np.testing.assert_allclose(cam, 0.5e-20 * A[:, 0], rtol=1e-6)


def test_grad_cam_plus_plus_stays_finite_where_its_denominator_is_0() -> None:
    # S g = -2 needs activations below 0, which the paper excludes.
    assert grad_cam_plus_plus(array([[[[-2, 0]]]]), array([[[[1, 0]]]])).tolist() == [[[0, 0]]]


def test_cam_takes_the_class_weights_of_a_linear_head_behind_average_pooling() -> None:
    weights = array([3, -1])
    gradients = array(np.broadcast_to((weights / 2)[None, :, None, None], A.shape))  # pooling over 2 places halves them
    assert class_activation_map(A, gradients).tolist() == [[[1, 9]]]
    np.testing.assert_array_equal(class_activation_map(A, gradients), 2 * grad_cam(A, gradients))


def test_cam_refuses_a_head_that_is_not_pooling_and_a_linear_layer() -> None:
    with pytest.raises(UsageError, match=r"gradients vary over it by 2\.0e\+00, the largest is 2\.0e\+00") as caught:
        class_activation_map(A, G)
    assert "take grad-cam" in str(caught.value.hint)


def test_cam_judges_every_row_by_its_own_gradients() -> None:
    # The second row's gradients vary, and are nothing beside the first row's.
    rows = np.concatenate([np.full_like(A, 1000), 1e-3 * G])
    with pytest.raises(UsageError, match="gradients vary"):
        class_activation_map(np.concatenate([A, A]), rows)


def test_eigen_cam_finds_the_direction_in_which_activations_vary_most() -> None:
    # Places (0, 0), (0, 0), (0, 0), (6, 8): centred they lie on one line, and the last is 7.5 = 10 x 3/4 from their mean.
    activations = array([[[[0, 0], [0, 6]], [[0, 0], [0, 8]]]])
    np.testing.assert_allclose(eigen_cam(activations), array([[[0, 0], [0, 7.5]]]), atol=1e-5)  # eigenvectors, then float32


@pytest.mark.parametrize("shape", [(3, 40, 3, 4), (3, 5, 6, 7)], ids=["more channels", "more places"])
def test_eigen_cam_equals_the_svd_of_each_image_whichever_matrix_is_the_smaller(shape: tuple[int, ...]) -> None:
    activations = random(*shape)
    for cam, image in zip(eigen_cam(activations), activations, strict=True):
        rows = image.reshape(shape[1], -1).T.astype(np.float64)
        rows -= rows.mean(0)
        projection = rows @ np.linalg.svd(rows, full_matrices=False)[2][0]
        if -projection.min() > projection.max():
            projection = -projection
        # Eigenvectors of the squared matrix in float64, rounded to float32.
        np.testing.assert_allclose(cam.ravel(), np.maximum(projection, 0), atol=1e-5)


def test_eigen_cam_takes_the_side_that_reaches_further_from_0() -> None:
    activations = random(8, 12, 5, 5)
    np.testing.assert_allclose(eigen_cam(activations), eigen_cam(-activations), atol=1e-5)


def test_eigen_cam_of_a_layer_that_does_not_vary_is_zeros() -> None:
    # 0.1 is not exact in binary: its mean differs from it by a rounding, which must not become a map.
    assert not eigen_cam(np.full((2, 3, 7, 7), 0.1, np.float32)).any()


@pytest.mark.parametrize("method", [*WITH_GRADIENTS, lambda a, _: eigen_cam(a)])
def test_rows_of_a_batch_do_not_touch_each_other(method: object) -> None:
    assert callable(method)
    activations, gradients = np.abs(random(5, 6, 4, 3)), random(5, 6, 4, 3, seed=1)
    together = method(activations, gradients)
    alone = np.concatenate([method(activations[i : i + 1], gradients[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)  # sums may be taken in another order
    assert together.shape == (5, 4, 3)
    assert together.dtype == np.float32


@pytest.mark.parametrize("method", WITH_GRADIENTS)
def test_evidence_that_is_negative_everywhere_gives_zeros(method: object) -> None:
    """Case O24: average pooling and a linear head whose weights for the class are all negative."""
    assert callable(method)
    activations = np.abs(random(2, 4, 5, 5))
    cam = method(activations, np.full_like(activations, -0.04))
    assert not cam.any()
    assert not np.signbit(cam).any()


@pytest.mark.parametrize("method", WITH_GRADIENTS)
def test_nan_and_infinity_are_refused_with_the_rows_that_have_them(method: object) -> None:
    assert callable(method)
    activations, gradients = random(3, 2, 2, 2), random(3, 2, 2, 2)
    activations[1, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="activations hold NaN or infinity in 1 of 3 rows, first in row 1") as caught:
        method(activations, gradients)
    assert "fp32" in str(caught.value.hint)
    gradients[2] = np.nan
    with pytest.raises(InputError, match="gradients hold NaN"):
        method(random(3, 2, 2, 2), gradients)


def test_a_cam_of_nan_from_the_graph_is_refused() -> None:
    with pytest.raises(InputError, match="cam hold NaN"):
        METHODS["grad-cam"].compute(np.full((1, 2, 2), np.nan, np.float32))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"activations have shape \[2, 2\], expected \[N, C, h, w\]"):
        grad_cam(random(2, 2), random(2, 2))
    with pytest.raises(InputError, match=r"gradients have shape \[1, 2, 1, 3\]"):
        grad_cam(A, random(1, 2, 1, 3))


def test_every_method_of_the_table_reads_outputs_of_the_explain_graph_and_names_its_paper() -> None:
    assert list(METHODS) == ["grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "eigen-cam", "cam"]
    for method in METHODS.values():
        assert set(method.reads) <= {"activations", "gradients", "cam"}
        assert method.paper.startswith(("arXiv ", "doi "))
