"""What a graph has done, in the words of Triton's statistics extension: times in nanoseconds.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a run was, for those who count.

    Args:
        rows, jobs: how many were in it.
        queue_s: how long each job had waited.
        infer_s: its time.
        failed: whether it raised.
        depth: jobs that wait behind it.
    """

    rows: int
    jobs: int
    queue_s: tuple[float, ...]
    infer_s: float
    failed: bool
    depth: int


class Statistics:
    """Sums over runs. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._by_rows: dict[int, Counter[str]] = {}
        self._last_ms = 0

    def add(self, run: Run) -> None:
        """Count a run."""
        infer_ns, queue_ns = round(run.infer_s * 1e9), round(sum(run.queue_s) * 1e9)
        with self._lock:
            self._last_ms = round(time.time() * 1e3)
            if run.failed:
                # A failed run of several is repeated for each alone, and only then has anybody failed.
                if run.jobs == 1:
                    self._counts.update(fail=1, fail_ns=infer_ns + queue_ns)
                return
            self._counts.update(
                rows=run.rows,
                runs=1,
                success=run.jobs,
                success_ns=run.jobs * infer_ns + queue_ns,
                queue_ns=queue_ns,
                infer_ns=run.jobs * infer_ns,
            )
            self._by_rows.setdefault(run.rows, Counter()).update(count=1, ns=infer_ns)

    def tell(self, name: str) -> dict[str, Any]:
        """The sums, for a graph of that name. What Triton counts and is not apart here is 0."""
        with self._lock:
            counts, by_rows = Counter(self._counts), {rows: Counter(one) for rows, one in sorted(self._by_rows.items())}
        none = _duration(0, 0)
        return {
            "name": name,
            "version": "1",
            "last_inference": self._last_ms,
            "inference_count": counts["rows"],
            "execution_count": counts["runs"],
            "inference_stats": {
                "success": _duration(counts["success"], counts["success_ns"]),
                "fail": _duration(counts["fail"], counts["fail_ns"]),
                "queue": _duration(counts["success"], counts["queue_ns"]),
                "compute_input": none,
                "compute_infer": _duration(counts["success"], counts["infer_ns"]),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": none,
                    "compute_infer": _duration(one["count"], one["ns"]),
                    "compute_output": none,
                }
                for rows, one in by_rows.items()
            ],
        }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
