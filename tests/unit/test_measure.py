"""The measuring module on callables of known cost."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.report import Aim, describe_machine, format_table, write_results
from benchmarks.worker import SideAbsent, Worker
from deploykit.benchmark.rounds import Measurement, measure_sides
from deploykit.benchmark.timing import Burst, in_process, run_burst, summarize

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("idle_process")]


def spin(milliseconds: float) -> None:
    """Keep a core busy, by the clock of this process's CPU time, which other processes do not advance."""
    end = time.process_time_ns() + milliseconds * 1e6
    while time.process_time_ns() < end:
        pass


def test_a_spin_of_2_ms_reads_2_ms() -> None:
    measured = measure_sides({"spin": in_process(lambda: spin(2))}, rounds=20)
    cpu_ms = summarize(measured.samples("spin", "cpu_ms"))["median"]
    wall_ms = summarize(measured.samples("spin"))["median"]
    # CPU time is the spin itself, and 5 % covers the calls around it. The wall clock also counts what neighbours take, and a
    # machine that runs tests beside this one may take half of the core, never time away.
    assert 2.0 <= cpu_ms <= 2.1
    assert 2.0 <= wall_ms <= 6.0


def test_a_sleep_costs_wall_time_and_no_cpu_time() -> None:
    burst = run_burst(lambda: time.sleep(0.005), 3)
    assert min(burst.wall_ms) >= 5.0
    assert max(burst.cpu_ms) < 1.0


def test_a_slow_call_in_fifty_shows_in_p99_and_not_in_p50() -> None:
    calls = iter(range(2000))

    def mostly_quick() -> None:
        spin(1.0 if next(calls) % 50 == 0 else 0.02)

    row = summarize(run_burst(mostly_quick, 1000).cpu_ms)
    assert row["p99"] >= 1.0
    assert row["median"] < 0.1


def test_there_is_no_p99_below_1000_samples() -> None:
    assert "p99" not in summarize([1.0] * 999)
    assert "p99" in summarize([1.0] * 1000)


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine is twice as slow in the second round and four times in the third: the sides' ratio stays 3 all along.
    slow = tuple(Burst((3.0 * f,) * 2, (3.0 * f,) * 2) for f in (1, 2, 4))
    fast = tuple(Burst((1.0 * f,) * 2, (1.0 * f,) * 2) for f in (1, 2, 4))
    measured = Measurement({"slow": slow, "fast": fast}, (None, None, None), ())
    assert measured.ratio("slow", "fast") == {"p25": 3.0, "median": 3.0, "p75": 3.0}


def test_rounds_that_others_disturbed_are_set_aside_if_five_quiet_ones_remain() -> None:
    bursts = tuple(Burst((wall,), (1.0,)) for wall in (1, 1, 9, 1, 1, 1))
    quiet_enough = Measurement({"side": bursts}, (0.0, 0.1, 1.5, 0.0, 0.1, 0.0), ())
    assert quiet_enough.is_quiet
    assert quiet_enough.samples("side") == [1, 1, 1, 1, 1]
    never_quiet = Measurement({"side": bursts}, (0.0, 0.1, 1.5, 0.0, 0.9, 0.0), ())
    assert not never_quiet.is_quiet
    assert never_quiet.samples("side") == [1, 1, 9, 1, 1, 1]


def test_every_round_has_one_burst_of_each_side_in_a_changing_order() -> None:
    order: list[str] = []
    sides = {name: in_process(lambda name=name: order.append(name)) for name in "abc"}  # type: ignore[misc]
    measured = measure_sides(sides, rounds=30, warm_up=1)
    rounds = [tuple(order[-90:][k : k + 3]) for k in range(0, 90, 3)]
    assert {len(set(names)) for names in rounds} == {3}
    assert len(set(rounds)) == 6
    assert len(measured.bursts["a"]) == 30


def test_a_burst_has_as_many_calls_as_its_length_holds() -> None:
    measured = measure_sides({"nap": in_process(lambda: time.sleep(0.004))}, rounds=2, burst_ms=40)
    # A sleep lasts at least as long as asked, so ten calls at most; a loaded machine wakes it late.
    assert 3 <= len(measured.bursts["nap"][0].wall_ms) <= 10


def test_a_side_that_gets_faster_and_faster_is_called_unstable() -> None:
    def warming_side(calls: int) -> Burst:
        asked.append(calls)
        return Burst((100 * 0.8 ** len(asked),) * calls, (0.0,) * calls)

    asked: list[int] = []
    assert measure_sides({"warming": warming_side}, rounds=1, warm_up=4).unstable == ("warming",)
    assert measure_sides({"steady": lambda calls: Burst((1.0,) * calls, (1.0,) * calls)}, rounds=1, warm_up=4).unstable == ()


def test_a_busy_neighbour_is_seen() -> None:
    def busy_side(calls: int) -> Burst:
        """Hides its own CPU time, so that it looks like somebody else's."""
        return Burst(run_burst(lambda: spin(100), calls).wall_ms, (0.0,) * calls)

    (cores,) = measure_sides({"side": busy_side}, rounds=1, warm_up=1).other_cores
    # The kernel counts in steps of 10 ms, 0.1 of this burst. Where the machine has no such count there is none to check.
    assert cores is None or cores >= 0.5


def make_spins(milliseconds: float) -> Mapping[str, Callable[[], object]]:
    def spin_and_answer() -> str:
        spin(milliseconds)
        return f"{milliseconds} ms"

    return {"spin": spin_and_answer}


def make_nothing() -> Mapping[str, Callable[[], object]]:
    raise SideAbsent("there is no C++ compiler")


def make_mistake() -> Mapping[str, Callable[[], object]]:
    raise SystemExit(3)


def test_a_worker_measures_in_a_process_of_its_own() -> None:
    with Worker(make_spins, 2.0) as worker:
        assert worker.absence() == ""
        assert worker.answer("spin") == "2.0 ms"
        burst = worker.side("spin")(5)
    assert len(burst.cpu_ms) == 5
    assert min(burst.cpu_ms) >= 2.0


def test_a_worker_says_why_there_is_no_side() -> None:
    with Worker(make_nothing) as worker:
        assert worker.absence() == "there is no C++ compiler"


def test_a_worker_that_dies_is_an_error_and_not_an_absence() -> None:
    with Worker(make_mistake) as worker, pytest.raises(RuntimeError, match="exit code 3"):
        worker.absence()


def test_the_machine_is_described() -> None:
    machine = describe_machine("numpy", "no-such-package")
    assert machine["cores"] >= 1
    assert machine["packages"]["numpy"]
    assert machine["packages"]["no-such-package"] is None


def test_a_table_lines_up() -> None:
    assert format_table(["side", "ms"], [["torch", "12.5"], ["ort", "7"]]) == "side     ms\n-----  ----\ntorch  12.5\nort       7"


def test_results_are_json_with_lists_of_numbers_on_one_line(tmp_path: Path) -> None:
    record = {"times_ms": [1.5, None, 2e-05], "names": ["a", "b"], "none": []}
    write_results(tmp_path / "new" / "r.json", record)
    text = (tmp_path / "new" / "r.json").read_text()
    assert json.loads(text) == record
    assert '"times_ms": [1.5, null, 2e-05],\n' in text


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"), [(1.1, True, "met"), (1.11, True, "MISSED"), (1.1, False, "met"), (1.09, False, "MISSED")]
)
def test_an_aim_says_whether_it_is_met(value: float, at_most: bool, verdict: str) -> None:
    assert Aim("ratio", value, 1.1, "x", at_most=at_most, is_quiet=True).row()[-1] == verdict
    assert Aim("ratio", value, 1.1, "x", at_most=at_most, is_quiet=False).row()[-1] == f"{verdict}, but disturbed"
