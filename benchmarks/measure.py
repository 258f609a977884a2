"""The measuring module that every script here shares is deploykit's own: see deploykit/benchmark/."""

from deploykit.benchmark.rounds import Measurement, measure_sides
from deploykit.benchmark.timing import Burst, Call, Side, in_process, quartiles, run_burst, summarize

__all__ = ["Burst", "Call", "Measurement", "Side", "in_process", "measure_sides", "quartiles", "run_burst", "summarize"]
