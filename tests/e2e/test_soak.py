"""The fault run of benchmarks/soak.py in its short form: promises that hold together under load."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.alone


def test_nothing_is_lost_or_wrong_while_uploads_are_bad_bundles_change_and_workers_die() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--quick"], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept") == 5
