"""Is the candidate the same function as the reference?"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from deploykit.errors import ParityError, SessionError
from deploykit.parity import ParityRecord, batches_of, compare_at_batch_sizes, compare_logits, compare_maps, sample_pictures
from deploykit.spec import Precision

REFERENCE = np.array([[1.0, 2.0, -4.0], [3.0, 0.5, 1.0]], np.float32)


def compare(candidate: npt.NDArray[np.float32], reference: npt.NDArray[np.float32] = REFERENCE, pictures: int = 2) -> ParityRecord:
    names = {"reference_name": "torch", "candidate_name": "ort"}
    return compare_logits(reference, candidate, Precision.FP32, pictures=pictures, batch_sizes=(2,), **names)


def test_the_difference_is_relative_to_the_largest_logit() -> None:
    candidate = REFERENCE.copy()
    candidate[1, 1] += 0.5
    record = compare(candidate)
    assert (record.max_difference, record.relative_difference) == (0.5, 0.125)  # 0.5 of 4
    assert not record.is_equal
    assert record.top1_agreement == 1.0
    assert compare(REFERENCE).is_equal


def test_noise_is_the_root_mean_square_of_the_difference_over_that_of_the_reference_and_may_be_held_to_a_tolerance() -> None:
    reference = np.array([[3.0, 4.0], [4.0, 3.0]], np.float32)
    record = compare(reference + np.array([[0.0, 0.0], [0.0, 1.0]], np.float32), reference)
    assert record.noise == pytest.approx(0.5 / np.sqrt(12.5))  # sqrt(1 / 4) over sqrt(50 / 4)
    loose = replace(record, tolerance=1.0)
    assert loose.is_equal
    assert replace(loose, noise_tolerance=0.15).is_equal
    assert not replace(loose, noise_tolerance=0.14).is_equal


def test_small_logits_are_not_excused_by_being_small() -> None:
    tiny = REFERENCE * np.float32(1e-6)
    assert not compare(tiny * np.float32(1.01), tiny).is_equal
    assert compare(tiny * np.float32(1.00001), tiny).is_equal


def test_a_swapped_winner_shows() -> None:
    assert compare(REFERENCE[:, ::-1].copy()).top1_agreement == 0.5


def test_nan_is_never_equal_and_a_reference_with_nan_is_refused() -> None:
    wrong = np.where(REFERENCE > 2.5, np.nan, REFERENCE).astype(np.float32)
    assert not compare(wrong).is_equal
    with pytest.raises(ParityError, match="torch gives NaN"):
        compare(REFERENCE, wrong)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ParityError, match=r"ort gives logits of shape \(2, 2\), torch gives \(2, 3\)"):
        compare(REFERENCE[:, :2])


def test_a_reference_that_answers_every_picture_alike_proves_nothing() -> None:
    alike = np.repeat(REFERENCE[:1], 2, axis=0)
    with pytest.raises(ParityError, match="same logits for 2 different pictures"):
        compare(alike, alike)
    assert compare(alike, alike, pictures=1).is_equal  # one picture twice is no reproach


def test_every_picture_is_asked_at_every_batch_size() -> None:
    assert [rows.tolist() for rows in batches_of(5, 2)] == [[0, 1], [2, 3], [4, 0]]
    assert [rows.tolist() for rows in batches_of(5, 8)] == [[0, 1, 2, 3, 4, 0, 1, 2]]


def channel_means(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(pixels.mean((1, 2)), np.float32)


def ask(answer: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]) -> ParityRecord:
    pixels = sample_pictures(5, 6, 6)
    return compare_at_batch_sizes(
        answer, pixels, channel_means(pixels), Precision.FP32, reference_name="torch", candidate_name="ort"
    )


def test_a_graph_that_mixes_rows_above_batch_one_is_caught() -> None:
    assert ask(channel_means).is_equal
    assert not ask(lambda pixels: channel_means(pixels[::-1])).is_equal


def test_a_batch_size_that_fails_is_named() -> None:
    def only_one(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if len(pixels) != 1:
            raise SessionError("node Reshape_7: wrong volume")
        return channel_means(pixels)

    with pytest.raises(ParityError, match="ort fails at batch 2: node Reshape_7"):
        ask(only_one)


def test_sample_pictures_are_the_same_each_time_differ_from_each_other_and_look_like_photos() -> None:
    pictures = sample_pictures(4, 64, 48)
    assert pictures.shape == (4, 64, 48, 3)
    assert np.array_equal(pictures, sample_pictures(4, 64, 48))
    assert not np.array_equal(pictures, sample_pictures(4, 64, 48, seed=1))
    assert len(np.unique(pictures.reshape(4, -1), axis=0)) == 4
    # Neighbouring pixels of a photo are alike, those of noise are not (their differences would have 1.4 times the deviation).
    assert np.diff(pictures.astype(float), axis=1).std() < 0.5 * pictures.std()


def maps_with(difference: Sequence[float]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Maps [N, 2, 2] with a maximum of 1, and others that differ from them by so much in one place each."""
    reference = np.tile(np.array([[1.0, 0.5], [0.25, 0.0]], np.float32), (len(difference), 1, 1))
    candidate = reference.copy()
    candidate[:, 0, 1] += np.array(difference, np.float32)
    return reference, candidate


def test_a_kink_may_move_the_map_of_one_picture_and_a_wrong_gradient_moves_all() -> None:
    assert compare_maps(*maps_with([0, 0, 0, 0.001, 0.03]), Precision.FP32).is_equal
    assert not compare_maps(*maps_with([0.03] * 5), Precision.FP32).is_equal
    assert not compare_maps(*maps_with([0, 0, 0, 0, 0.1]), Precision.FP32).is_equal
    found = compare_maps(*maps_with([0, 0, 0.001, 0.002, 0.03]), Precision.FP32)
    assert found.typical == pytest.approx(0.001, rel=1e-3)
    assert found.worst == pytest.approx(0.03, rel=1e-3)


def test_maps_are_scaled_before_they_are_compared_and_nan_never_passes() -> None:
    reference, candidate = maps_with([0.0, 0.0])
    assert compare_maps(reference, 7 * candidate, Precision.FP32).worst == 0
    candidate[1, 0, 0] = np.nan
    assert not compare_maps(reference, candidate, Precision.INT8).is_equal
    with pytest.raises(ParityError, match="the maps have shape"):
        compare_maps(reference, candidate[:1], Precision.FP32)
