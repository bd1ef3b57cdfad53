"""The installed command's script, run as a shell or a hook would."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from tests.parts import ROOT, WITHIN

SCRIPT = ROOT / "bin/ngcp-invoke-task"


def environment(**more: str) -> Dict[str, str]:
    """Return this environment, with another terminal size.

    Without the names that the user's own commands have kept.
    """
    mine = {**os.environ, "PYTHONPATH": str(ROOT)}
    mine["XDG_CACHE_HOME"] = f"{os.devnull}/no-folder"
    for name in ("COLUMNS", "LINES"):
        mine.pop(name, None)
    return {**mine, **more}


def command(*arguments: str) -> List[str]:
    return [sys.executable, str(SCRIPT), *arguments]


class Invoked:
    """The result of a call."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.status = done.returncode
        self.out = done.stdout.decode()
        self.err = done.stderr.decode() if done.stderr else ""
        assert "Traceback" not in self.out + self.err, self.out + self.err
        assert "a bug:" not in self.err, self.err

    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> List[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def invoke(
    config: Optional[Path],
    task: str,
    *arguments: str,
    within: float = 2 * WITHIN,
    **options: Any,
) -> Invoked:
    """Run a task with the command and these arguments."""
    if config is not None:
        arguments = ("--config-dir", str(config), *arguments)
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    return Invoked(
        subprocess.run(
            command("--task", task, *arguments),
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=within,
            **options,
        )
    )


def wrapper(folder: Path, config: Path) -> Path:
    """A folder for $PATH; its ngcp-invoke-task reads that configuration."""
    folder.mkdir()
    words = map(shlex.quote, command("--config-dir", str(config)))
    script = folder / "ngcp-invoke-task"
    script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    script.chmod(0o755)
    return folder
