"""What `Classifier` adds to ONNX Runtime: calls of both on one and the same session, alternating, batch 1; and whether the clock of
``deploykit bench`` says what a loop without a clock in it takes.

The difference of two runs of a network is small against their noise. So the classifier's own work is measured alone as well, on a
session that answers at once.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.report import Aim, Section, format_table, remarks, say
from benchmarks.sides import bundle_path
from deploykit.benchmark.rounds import Measurement, measure_sides
from deploykit.benchmark.timing import Synchronous, in_process, quartiles, time_calls
from deploykit.parity import sample_pictures
from deploykit.runtime import Classifier
from deploykit.runtime.session import Session

BARE = "bare run"
ASKED = ("logits", "classify")
_LOOP = 10


class InstantSession:
    """Stands in for ONNX Runtime's session and answers at once: what is left of a call is deploykit's own work."""

    def __init__(self, logits: list[npt.NDArray[np.float32]]) -> None:
        self._logits = logits

    def run(self, _outputs: object, _feeds: object) -> list[npt.NDArray[np.float32]]:
        """The same answer to everything."""
        return self._logits


def compare_overhead(folder: Path, models: Sequence[str], *, quick: bool) -> Section:
    """Measure the first of the models on all cores."""
    name = models[0]
    say(f"{name}: overhead of the classifier")
    with Classifier.open(bundle_path(folder, name, "pixels")) as opened:
        # Pictures of the network's size pass through unresized: what is left of `classify` is its own work.
        image = replace(opened.manifest.image, resize_rule="exact", resize_size=None)
        classifier = Classifier(opened.session, replace(opened.manifest, image=image))
        pixels = sample_pictures(1, image.height, image.width, seed=1)
        session: Any = opened.session
        whole = _measure(classifier, pixels, 20 if quick else 200)
        bare = session._session
        session._session = InstantSession(bare.run(["logits"], {"image": pixels}))
        own = _measure(classifier, pixels, 200 if quick else 2000)
        session._session = bare
        apart = _harness_percent(opened.session, bare, pixels, 5 if quick else 40)
    bare_ms = _median_ms(whole, BARE)
    record: dict[str, object] = {"whole": whole.to_json(), "session_that_answers_at_once": own.to_json()}
    rows, aims = [], []
    for side in ASKED:
        added = {quartile: (ratio - 1) * 100 for quartile, ratio in whole.ratio(side, BARE).items()}
        own_ms = _median_ms(own, side) - _median_ms(own, BARE)
        record[side] = {"added_percent": added, "own_work_us": own_ms * 1e3}
        spread = f"{added['p25']:+.2f} to {added['p75']:+.2f}"
        rows.append([side, f"{added['median']:+.2f} %", spread, f"{own_ms * 1e3:.0f}", f"{own_ms / bare_ms:.2%}"])
        what = f"{name}: Classifier.{side} over a bare run"
        aims.append(Aim(what, added["median"], 2, "%", at_most=True, is_quiet=whole.is_quiet))
    record["harness_percent"] = apart
    what = f"{name}: `deploykit bench` apart from a bare loop"
    aims.append(Aim(what, abs(apart["median"]), 3, "%", at_most=True, is_quiet=whole.is_quiet))
    table = format_table(["Classifier", "longer than a bare run", "p25 to p75", "own work us", "of a bare run"], rows)
    title = f"{name}, batch 1, a bare run takes {bare_ms:.1f} ms"
    return Section({name: record}, (f"{title}\n{table}{remarks(whole)}",), tuple(aims))


def _harness_percent(session: Session, bare: Any, pixels: npt.NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """How much more ``deploykit bench`` reports of a call than a bare loop takes for one, in percent: quartiles over rounds."""
    device = Synchronous(lambda: session.run({"image": pixels}, ("logits",)))
    found = []
    for _ in range(rounds):
        reported = statistics.median(time_calls(device, _LOOP).wall_ms)
        start = time.perf_counter()
        for _ in range(_LOOP):
            bare.run(["logits"], {"image": pixels})
        loop_ms = (time.perf_counter() - start) / _LOOP * 1e3
        found.append((reported / loop_ms - 1) * 100)
    return quartiles(found)


def _measure(classifier: Classifier, pixels: npt.NDArray[np.uint8], rounds: int) -> Measurement:
    opened: Any = classifier.session
    bare, picture = opened._session, pixels[0]
    sides = {
        BARE: in_process(lambda: bare.run(["logits"], {"image": pixels})),
        "logits": in_process(lambda: classifier.logits(pixels)),
        "classify": in_process(lambda: classifier.classify(picture)),
    }
    return measure_sides(sides, rounds=rounds)


def _median_ms(measured: Measurement, side: str) -> float:
    return float(np.median(measured.samples(side)))
