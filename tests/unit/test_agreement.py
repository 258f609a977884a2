"""Agreement, accuracy, Wilson's interval and McNemar's test, against numbers worked out by hand and against scipy."""

import math

import numpy as np
import pytest

from deploykit.agreement import (
    Accuracy,
    Agreement,
    Paired,
    Share,
    add_answers,
    add_logits,
    add_pairs,
    ranks_of,
    signal_to_noise_db,
)


def test_wilson_interval_of_8_of_10_is_that_of_the_formula() -> None:
    # z = 1.96: centre (0.8 + 0.19207) / 1.38415, half width 1.96 / 1.38415 * sqrt(0.016 + 0.0096036).
    low, high = Share(8, 10).interval
    assert low == pytest.approx(0.49016, abs=1e-4)
    assert high == pytest.approx(0.94331, abs=1e-4)


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 7), (7, 7), (499, 500), (1, 40_000)])
def test_wilson_interval_is_scipys(count: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(count, total).proportion_ci(method="wilson")
    assert Share(count, total).interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_of_all_right_reaches_one_and_has_a_width() -> None:
    low, high = Share(20, 20).interval
    assert high == 1.0
    assert 0.8 < low < 0.9


def test_of_nothing_the_share_is_not_a_number_and_the_interval_is_everything() -> None:
    assert math.isnan(Share(0, 0).share)
    assert Share(0, 0).interval == (0.0, 1.0)
    assert Share(0, 0).to_json()["share"] is None


def test_a_count_above_its_total_is_refused() -> None:
    with pytest.raises(ValueError, match="count is 3, expected 0 to the total of 2"):
        Share(3, 2)


def test_agreement_of_two_images_is_what_a_hand_computes() -> None:
    reference = np.array([[1.0, -1.0], [2.0, -2.0]], np.float32)
    candidate = np.array([[-1.0, 1.0], [1.0, -1.0]], np.float32)
    found = add_logits(Agreement(), reference, candidate)
    assert found.top1 == Share(1, 2)
    assert found.cosine == pytest.approx(0.0)  # -1 and +1
    assert found.lowest_cosine == pytest.approx(-1.0)
    assert found.signal == 10.0
    assert found.noise == 10.0  # 8 + 2
    assert found.snr_db == pytest.approx(0.0)


def test_a_constant_added_to_all_logits_of_an_image_changes_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 6))
    found = add_logits(Agreement(), logits, logits + 100)
    assert found.top1.share == 1
    assert found.snr_db > 200  # float64 rounding of the constant alone


def test_batches_add_up_to_the_whole() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(7, 5)), random.normal(size=(7, 5))
    whole = add_logits(Agreement(), a, b)
    parts = add_logits(add_logits(Agreement(), a[:3], b[:3]), a[3:], b[3:])
    assert parts.snr_db == pytest.approx(whole.snr_db)
    assert parts.same == whole.same
    assert parts.cosine == pytest.approx(whole.cosine)


def test_a_segmentation_nets_agreement_counts_pixels() -> None:
    reference = np.zeros((1, 2, 2, 2), np.float32)
    reference[:, 0] = 1
    candidate = reference.copy()
    candidate[0, :, 0, 0] = [0, 1]
    found = add_logits(Agreement(), reference, candidate)
    assert (found.same, found.answers, found.images) == (3, 4, 1)


def test_equal_logits_have_infinite_signal_to_noise_which_json_calls_null() -> None:
    logits = np.array([[1.0, 2.0]])
    found = add_logits(Agreement(), logits, logits)
    assert found.snr_db == math.inf
    assert found.to_json()["snr_db"] is None
    assert signal_to_noise_db(100, 1) == pytest.approx(20)


def test_logits_that_are_not_finite_are_refused_by_side() -> None:
    with pytest.raises(FloatingPointError, match="the candidate has 1 logits"):
        add_logits(Agreement(), np.zeros((1, 2)), np.array([[0.0, np.nan]]))


def test_logits_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] and \[1, 3\]"):
        add_logits(Agreement(), np.zeros((1, 2)), np.zeros((1, 3)))


def test_top1_and_top5_count_the_place_of_the_right_class() -> None:
    logits = np.array([[6, 5, 4, 3, 2, 1]] * 3, np.float32)
    found = add_answers(Accuracy(), logits, np.array([0, 4, 5]))
    assert (found.top1, found.top5) == (Share(1, 3), Share(2, 3))


def test_of_equal_logits_the_first_class_is_the_answer_as_argmax_has_it() -> None:
    assert ranks_of(np.zeros((3, 3)), np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_nan_is_never_right() -> None:
    assert ranks_of(np.full((1, 3), np.nan), np.array([0])).tolist() == [3]


def test_confusions_name_the_worst_classes_and_what_they_are_called() -> None:
    accuracy = Accuracy()
    for right, named in [(0, 0), (0, 0), (1, 2), (1, 2), (1, 0), (2, 2), (2, 0)]:
        accuracy = add_answers(accuracy, np.eye(3)[[named]], np.array([right]))
    assert accuracy.worst_classes(5) == [1, 2]
    assert accuracy.confused_with(1) == [(2, 2), (0, 1)]
    assert accuracy.class_share(2) == Share(1, 2)


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="classes go from 3 to 3, expected 0 to 2"):
        add_answers(Accuracy(), np.zeros((1, 3)), np.array([3]))


def test_mcnemar_of_1_against_9_is_the_exact_sign_test() -> None:
    # 2 * (C(10, 0) + C(10, 1)) / 2^10 = 22 / 1024
    assert Paired(1, 9, 50).p_value == pytest.approx(22 / 1024)
    assert Paired(1, 9, 50).is_exact


def test_mcnemar_of_many_is_edwards_chi_square() -> None:
    stats = pytest.importorskip("scipy.stats")
    paired = Paired(40, 20, 500)
    assert paired.p_value == pytest.approx(stats.chi2.sf(19**2 / 60, df=1))
    assert "chi-square" in paired.to_json()["test"]


@pytest.mark.parametrize(("b", "c"), [(0, 1), (5, 5), (0, 24), (7, 16)])
def test_mcnemars_exact_form_is_scipys_binomial_test(b: int, c: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert Paired(b, c, 100).p_value == pytest.approx(stats.binomtest(b, b + c).pvalue)


def test_without_disagreement_two_sides_cannot_be_told_apart() -> None:
    assert Paired(0, 0, 9).p_value == 1.0
    assert Paired(13, 13, 30).p_value == 1.0


def test_pairs_add_up_batch_by_batch() -> None:
    first, second = np.array([True, True, False]), np.array([False, True, True])
    found = add_pairs(add_pairs(Paired(), first, second), first[:1], second[:1])
    assert found == Paired(2, 1, 4)
