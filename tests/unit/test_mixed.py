"""How many layers are left out of INT8: the fewest that suffice, found by doubling and bisection."""

import pytest

from deploykit.quantization.mixed import Step, choose_kept
from deploykit.quantization.sensitivity import most_sensitive

LAYERS = tuple(f"layer{i}" for i in range(20))


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 7, 8, 13, 19])
def test_the_fewest_layers_that_suffice_are_left_out(needed: int) -> None:
    mix = choose_kept(LAYERS, lambda kept: 1.0 if len(kept) >= needed else 0.5, 0.97)
    assert mix.is_reached
    assert mix.kept == LAYERS[:needed]
    assert mix.agreement == 1.0


def test_the_most_sensitive_go_first() -> None:
    assert most_sensitive({"a": 30.0, "b": 10.0, "c": 20.0}) == ("b", "c", "a")


def test_what_is_known_is_not_run_again_and_every_trial_is_kept() -> None:
    asked = []

    def judge(kept: tuple[str, ...]) -> float:
        asked.append(len(kept))
        return 0.9 + 0.02 * len(kept)

    mix = choose_kept(LAYERS, judge, 0.97, known=0.9)
    assert asked == [1, 2, 4, 3]
    assert mix.steps == (Step(0, 0.9), *(Step(n, 0.9 + 0.02 * n) for n in asked))
    assert mix.kept == LAYERS[:4]


def test_where_nothing_suffices_the_best_trial_is_told() -> None:
    mix = choose_kept(LAYERS[:5], lambda kept: 0.5 + 0.1 * len(kept), 0.97)
    assert not mix.is_reached
    assert len(mix.kept) == 4  # one layer at least stays in INT8
    assert mix.agreement == pytest.approx(0.9)


def test_a_number_that_suffices_by_luck_is_taken_only_if_it_was_tried() -> None:
    found = {0: 0.9, 1: 0.9, 2: 0.98, 4: 0.9}
    mix = choose_kept(LAYERS, lambda kept: found.get(len(kept), 0.9), 0.97)
    assert mix.kept == LAYERS[:2]
