"""The real client's script, with its time and memory."""

from __future__ import annotations

import os
import subprocess
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


def measured_program(folder: Path, *words: str, **options: Any) -> Measured:
    begin = time.monotonic()
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(),
            **options,
        )
        # Unlike Popen.wait(), this says how much memory it has had.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.WEXITSTATUS(status)
        if os.WIFSIGNALED(status):
            process.returncode = -os.WTERMSIG(status)
    done = Measured(
        process.returncode,
        out.read_text(errors="replace"),
        err.read_text(errors="replace"),
        time.monotonic() - begin,
        usage.ru_maxrss // 1024,
    )
    assert "Traceback" not in done.err, done.err
    assert "a bug:" not in done.err, done.err
    return done
