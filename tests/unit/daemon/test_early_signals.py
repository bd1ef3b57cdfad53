"""Signals before the agent can handle them."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any, List

import pytest

from tests.parts import ROOT

SCRIPT = """\
import os, sys
from ngcp_task_agent.daemon import early_signals as signals
signals.at_start(sys.argv[2:])
os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(3)
"""
CASES: List[Any] = [
    *((signal.SIGTERM, [], 0), (signal.SIGINT, [], 0)),
    *((signal.SIGHUP, [], 3), (signal.SIGTERM, ["--log-level", "debug"], 0)),
    # These must not look successful.
    *((signal.SIGTERM, ["--check"], -15), (signal.SIGHUP, ["--reload"], -1)),
    *((signal.SIGTERM, ["--check", "x.yml"], -15),),
    *((signal.SIGTERM, ["--config-dir", "x", "--check=x.yml"], -15),),
    *((signal.SIGINT, ["--check"], -2), (signal.SIGINT, ["--reload"], -2)),
]


@pytest.mark.parametrize(("number", "options", "status"), CASES)
def test_at_start(number: int, options: List[str], status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(int(number)), *options],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, b"")


def test_handled_before_most_modules_are_loaded() -> None:
    script = (
        "import sys; import ngcp_task_agent.daemon.early_signals; "
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert not {b"asyncio", b"redis", b"yaml", b"logging"} & set(loaded)
