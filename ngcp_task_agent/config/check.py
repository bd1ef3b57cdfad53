"""Check: what is wrong with the configuration, for administrators."""

from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from ngcp_task_agent.config.faults import Fault
from ngcp_task_agent.config.loader import Loader
from ngcp_task_agent.display import counted


class Findings(NamedTuple):
    """What a check has found; faults and warnings are sorted.

    :ivar is_sound: an agent would start with it, and use all of it
    :ivar summary: a sentence, or empty where the faults say all
    """

    is_sound: bool
    faults: Tuple[Fault, ...]
    warnings: Tuple[Fault, ...]
    summary: str

    def lines(self) -> List[str]:
        """Return all of it as lines to print."""
        lines = list(map(str, self.faults))
        lines += [f"{warning} (a warning)" for warning in self.warnings]
        return [*lines, self.summary] if self.summary else lines


def check(folder: Path, file: Optional[Path] = None) -> Findings:
    """Check a folder, or a file as if it was in there.  Blocks."""
    loader = Loader(folder, checking=True)
    if file:
        document = loader.check(file)
        faults, warnings = {*document.faults}, {*document.warnings}
        summary = "" if faults else f"{file}: no fault"
        is_sound = not faults
    else:
        config = loader.load()
        faults, warnings = {*config.faults}, {*config.warnings}
        is_sound = bool(config.backends) and not faults
        summary = ""
        if is_sound:
            summary = (
                f"{folder}: no fault; "
                f"{counted(len(config.backends), 'backend')}, "
                f"{counted(len(config.tasks), 'task')}"
            )
        elif not config.backends:
            summary = f"{folder}/backends: no usable backend: nothing to run"
    return Findings(
        is_sound, tuple(sorted(faults)), tuple(sorted(warnings)), summary
    )
