"""The configuration: a folder of YAML files, read again at every reload.

A faulty file is left out, or keeps its last good version if it had one; other
files are not affected.  All faults of all files are reported at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, TypeVar

from ngcp_task_agent.config import models, permissions, plugins
from ngcp_task_agent.config.faults import FAULTY, Fault
from ngcp_task_agent.config.models import (
    AgentConfig,
    BackendConfig,
    TaskConfig,
)
from ngcp_task_agent.config.plugins import Plugins
from ngcp_task_agent.config.yaml_file import Document
from ngcp_task_agent.logs import journal

DEFAULT_DIR = Path("/etc/ngcp-task-agent")

FileConfig = TypeVar("FileConfig", AgentConfig, BackendConfig, TaskConfig)


@dataclass(frozen=True)
class Config:
    """The usable part of all files, and the faults of the rest.

    :ivar tasks: the enabled tasks whose backend is usable; no two have the
        same name, backend and channel
    :ivar warnings: files that are not read, and what would make a valid task
        fail now
    :ivar kept: number of faulty files whose last good version is in force
    :ivar left_out: number of faulty files with nothing in force
    """

    plugins: Plugins
    agent: AgentConfig
    backends: Mapping[str, BackendConfig]
    tasks: Tuple[TaskConfig, ...]
    faults: Tuple[Fault, ...]
    warnings: Tuple[Fault, ...]
    kept: int
    left_out: int

    def log(self) -> None:
        """Log faults and warnings to the journal."""
        for fault in self.faults:
            journal.record(journal.CONFIG_FAULT, str(fault))
        for warning in self.warnings:
            journal.record(journal.CONFIG_WARNING, str(warning))


class Loader:
    """Reads the folder at each load(); keeps each file's last good version.

    load() blocks: call it in a thread.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # For each file: its last contents without faults, and what they were
        # parsed into.
        self._good: Dict[Path, Tuple[Any, Any]] = {}
        self._faults: List[Fault] = []
        self._warnings: List[Fault] = []

    def load(self) -> Config:
        """Read all files."""
        known = plugins.installed()
        self._faults, self._warnings = [], []
        if not os.path.isdir(self.folder):
            what = "there is no such folder"
            self._faults.append(Fault(self.folder, 0, "", what))
        self._warn_about_misplaced_files()
        agent_file = self.folder / "agent.yml"
        agent_files = [agent_file] if os.path.lexists(agent_file) else []
        backend_files = self._files("backends")
        task_files = self._files("tasks")
        files = {*agent_files, *backend_files, *task_files}
        self._good = {p: g for p, g in self._good.items() if p in files}

        agent: Optional[AgentConfig] = AgentConfig()
        for document in map(permissions.read, agent_files):
            agent = self._parse(document, models.parse_agent)
        named: Dict[str, Optional[BackendConfig]] = {}
        for document in map(permissions.read, backend_files):
            named[document.path.stem] = self._parse(
                document, models.parse_backend, known
            )
        backends = {name: found for name, found in named.items() if found}
        tasks: Dict[Tuple[str, str, str], TaskConfig] = {}
        # Unchanged files come first: they keep their task names.
        documents = map(permissions.read, task_files)
        for document in sorted(documents, key=self._has_changed):
            task = self._parse(
                document, models.parse_task, known, named, tasks
            )
            if task and task.enabled and task.backend in backends:
                place = (task.backend, task.channel, task.name)
                # A faulty file's last good version gives way to a valid file.
                tasks.setdefault(place, task)

        # Without its backend, even a task's last good version is not in force.
        in_force = {task.path for task in tasks.values()}
        in_force.update(backend.path for backend in backends.values())
        in_force.update({agent_file} & self._good.keys())
        faulty = {fault.path for fault in self._faults} & files
        return Config(
            known,
            agent or models.UNKNOWN_NODE,
            backends,
            tuple(tasks.values()),
            # Two checks can find the same value of the wrong type.
            tuple(sorted({*self._faults})),
            tuple(sorted({*self._warnings})),
            kept=len(faulty & in_force),
            left_out=len(faulty - in_force),
        )

    def _files(self, name: str) -> List[Path]:
        """List a folder's ``.yml`` files, sorted by name."""
        folder = self.folder / name
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._faults.append(permissions.os_fault(folder, error))
            # The files may still be there: keep them.
            return sorted(p for p in self._good if p.parent == folder)
        # Editors leave hidden files behind.
        paths = [folder / n for n in names if n[0] != "."]
        for path in paths:
            if _is_yaml(path) and path.suffix != ".yml":
                self._warn(path, "its name must end with '.yml'")
        return [path for path in paths if path.suffix == ".yml"]

    def _warn_about_misplaced_files(self) -> None:
        """Warn about files that look like configuration but are not read."""
        try:
            paths = sorted(self.folder.glob("[!.]*"))
        except OSError:
            return  # already reported as a fault
        for path in paths:
            name = path.name.lower().rstrip("s")
            if path.name in ("agent.yml", "backends", "tasks"):
                continue
            if name in ("backend", "task"):
                self._warn(path, f"did you mean '{name}s'?")
            elif _is_yaml(path) and path.stem.lower().rstrip("s") == "agent":
                self._warn(path, "did you mean 'agent.yml'?")
            elif _is_yaml(path):
                self._warn(path, "use the folders backends/ and tasks/")

    def _warn(self, path: Path, why: str) -> None:
        self._warnings.append(Fault(path, 0, "", f"is not read: {why}"))

    def _has_changed(self, document: Document) -> bool:
        said, _ = self._good.get(document.path, (FAULTY, None))
        return bool(document.faults) or document.value != said

    def _parse(
        self,
        document: Document,
        parse: Callable[..., Optional[FileConfig]],
        *known: Any,
    ) -> Optional[FileConfig]:
        """Parse a file; if it has faults, return its last good version."""
        try:
            config = parse(document, *known)
        except Exception as error:
            # No file, however odd, may stop the agent.  Python's message may
            # quote it.
            what = f"cannot be used: {type(error).__name__}"
            document.faults.append(Fault(document.path, 0, "", what))
        self._faults += document.faults
        self._warnings += document.warnings
        if not document.faults:
            self._good[document.path] = (document.value, config)
        good: Optional[FileConfig]
        _, good = self._good.get(document.path, (None, None))
        return good


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yml", ".yaml")
