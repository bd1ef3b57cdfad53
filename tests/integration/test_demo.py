"""The demo in the README, as a newcomer sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.test_invoke_terminal import Terminal
from tests.parts import ROOT


def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "tests/demo/run"), sys.executable],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    agent = [line for line in lines if line.startswith("agent | ")]
    assert " has started: " in agent[1]
    assert " stopped; " in agent[-1]
    published = [line for line in lines if line.startswith("redis |   {")]
    assert ['"status": "done"' in line for line in published] == [
        False,
        False,
        True,
    ]
    others = [line for line in lines if line not in [*agent, *published]]
    # The client's lines, which have no mark.
    assert "2 packets transmitted" in "".join(others)
    assert "INFO" not in "".join(others)
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_no_line_overwrites_another(tmp_path: Path) -> None:
    terminal = Terminal(
        [str(ROOT / "tests/demo/run"), sys.executable], TMPDIR=str(tmp_path)
    )
    try:
        terminal.end(0)
    finally:
        terminal.close()
    assert "2 packets transmitted" in terminal.text
    assert b"\x1b" not in terminal.raw
