"""The real client's script, with its time and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tests.invoking import command, environment


@dataclass(frozen=True)
class Measured:
    """How a program ended.

    :param status: its exit status; negative for a signal
    :param out: standard output
    :param err: standard error
    :param megabytes: the most memory that it has had
    """

    status: int
    out: str
    err: str
    seconds: float
    megabytes: int


def measured(
    folder: Path,
    config: Optional[Path],
    task: str,
    *arguments: str,
    **options: Any,
) -> Measured:
    """Run a task with the client, which must show no traceback."""
    if config is not None:
        arguments = ("--config-dir", str(config), *arguments)
    return measured_program(
        folder, *command("--task", task, *arguments), **options
    )


# Runs a program, and writes its status and memory to standard output.  A child
# of the tests themselves would begin with the most memory that these have had.
_MEASURE = """
import os, sys
report = os.dup(1)
os.dup2(int(sys.argv[1]), 1)
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
code = os.waitstatus_to_exitcode(status)
os.write(report, b"%d %d" % (code, usage.ru_maxrss))
"""


def measured_program(folder: Path, *words: str, **options: Any) -> Measured:
    begin = time.monotonic()
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        report = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(stdout.fileno()), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=[stdout.fileno()],
            env=environment(),
            check=True,
            **options,
        ).stdout
    status, kilobytes = map(int, report.split())
    done = Measured(
        status,
        out.read_text(errors="replace"),
        err.read_text(errors="replace"),
        time.monotonic() - begin,
        kilobytes // 1024,
    )
    assert "Traceback" not in done.err, done.err
    assert "a bug:" not in done.err, done.err
    return done
