"""A minute of the chaos suite, see tests/chaos."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.parts import ROOT

SEED = os.environ.get("CHAOS_SEED", "1")
WITHIN = 600.0  # seconds, including all waits at the end


def test_a_minute_of_faults_loses_and_repeats_no_answer() -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos"),
            *("--seed", SEED, "--minutes", "1"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout
