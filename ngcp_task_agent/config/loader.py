"""The configuration: a folder of YAML files, read again at every reload.

Each file stands for itself: a fault leaves that file out, or keeps its last
good version where there was one, and all faults are told at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
)

from ngcp_task_agent.config import models as settings
from ngcp_task_agent.config import permissions as trusted
from ngcp_task_agent.config import plugins
from ngcp_task_agent.config.models import (
    UNKNOWN,
    AgentConfig,
    BackendConfig,
    NodeConfig,
    TaskConfig,
)
from ngcp_task_agent.config.plugins import Plugins
from ngcp_task_agent.config.yaml_file import Document, Fault
from ngcp_task_agent.logs import journal

DEFAULT_DIR = Path("/etc/ngcp-task-agent")


@dataclass(frozen=True)
class Config:
    """All that is usable, and what is not.

    :ivar tasks: the enabled ones, whose backend is there, in their files'
        order; no two with the same name, backend and channel
    :ivar warnings: what will keep a sound task from working, as things stand
    :ivar kept: how many faulty files go on as they were without a fault
    :ivar left_out: how many have nothing in force
    """

    plugins: Plugins
    agent: AgentConfig
    backends: Mapping[str, BackendConfig]
    tasks: Tuple[TaskConfig, ...]
    faults: Tuple[Fault, ...]
    warnings: Tuple[Fault, ...]
    kept: int
    left_out: int

    def tell(self) -> None:
        """Put faults and warnings into the journal."""
        for fault in self.faults:
            journal.record(journal.CONFIG_FAULT, str(fault))
        for warning in self.warnings:
            journal.record(journal.CONFIG_WARNING, str(warning))


FileConfig = TypeVar("FileConfig", AgentConfig, BackendConfig, TaskConfig)


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yml", ".yaml")


class Loader:
    """Reads the folder, again and again; remembers what was good.

    Blocks: call load() in a thread.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._good: Dict[Path, Any] = {}
        self._said: Dict[Path, Any] = {}  # the values of sound files
        self._faults: List[Fault] = []
        self._warnings: List[Fault] = []

    def load(self) -> Config:
        """What the files say now."""
        installed = plugins.find()
        self._faults, self._warnings = [], []
        seen: List[Path] = []
        if not os.path.isdir(self.folder):
            self._faults.append(
                Fault(self.folder, 0, "", "there is no such folder")
            )
        self._warn_of_strangers()
        agent_file = self.folder / "agent.yml"
        agent = AgentConfig()
        if os.path.lexists(agent_file):
            seen.append(agent_file)
            # Without it nobody knows whom this node would act for.
            agent = self._make(
                trusted.read(agent_file), settings.agent
            ) or AgentConfig(
                NodeConfig(state=UNKNOWN, status=UNKNOWN, roles=())
            )
        named: Dict[str, Optional[BackendConfig]] = {}
        for path in self._files("backends"):
            seen.append(path)
            named[path.stem] = self._make(
                trusted.read(path), lambda d: settings.backend(d, installed)
            )
        backends = {name: found for name, found in named.items() if found}
        tasks: Dict[Tuple[str, str, str], TaskConfig] = {}
        documents = [trusted.read(path) for path in self._files("tasks")]
        # A file that has not changed keeps its name against one that has.
        documents.sort(key=self._has_changed)
        for document in documents:
            seen.append(document.path)
            task = self._make(
                document, lambda d: self._task(d, installed, named, tasks)
            )
            if task and task.enabled and task.backend in backends:
                place = (task.backend, task.channel, task.name)
                # What was good of a faulty file gives way to a sound one.
                tasks.setdefault(place, task)
        self._good = {p: c for p, c in self._good.items() if p in seen}
        # A task is not in force without its backend, whatever was good of it.
        in_force = {task.path for task in tasks.values()}
        in_force.update(backend.path for backend in backends.values())
        in_force.update({agent_file} & self._good.keys())
        faulty = {fault.path for fault in self._faults}.intersection(seen)
        return Config(
            installed,
            agent,
            backends,
            tuple(tasks.values()),
            tuple(sorted(self._faults)),
            tuple(sorted(self._warnings)),
            kept=len(faulty & in_force),
            left_out=len(faulty - in_force),
        )

    def _files(self, name: str) -> List[Path]:
        """The files of a folder, in their names' order."""
        folder = self.folder / name
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._faults.append(trusted.os_fault(folder, error))
            # Whether they are still there is not known: they stay.
            return sorted(p for p in self._good if p.parent == folder)
        # Editors leave hidden files behind.
        paths = [folder / n for n in names if n[0] != "."]
        for path in paths:
            if _is_yaml(path) and path.suffix != ".yml":
                what = "is not read: its name must end with '.yml'"
                self._warnings.append(Fault(path, 0, "", what))
        return [path for path in paths if path.suffix == ".yml"]

    def _warn_of_strangers(self) -> None:
        """Warn of what looks like a part of the configuration and is none."""
        try:
            paths = sorted(self.folder.glob("[!.]*"))
        except OSError:
            return  # it has a fault already
        for path in paths:
            name = path.name.lower()
            what = ""
            if path.name in ("agent.yml", "backends", "tasks"):
                continue
            if name.rstrip("s") in ("backend", "task"):
                what = f"is '{name.rstrip('s')}s' meant?"
            elif _is_yaml(path):
                what = "backends and tasks lie in backends/ and tasks/"
                if path.stem.lower().rstrip("s") == "agent":
                    what = "is 'agent.yml' meant?"
            if what:
                fault = Fault(path, 0, "", f"is not read; {what}")
                self._warnings.append(fault)

    def _has_changed(self, document: Document) -> bool:
        said = self._said.get(document.path)
        return bool(document.faults) or document.value != said

    def _make(
        self,
        document: Document,
        make: Callable[[Document], Tuple[Optional[FileConfig], List[Fault]]],
    ) -> Optional[FileConfig]:
        """What a file says, or else what it last said without a fault."""
        path = document.path
        config: Optional[FileConfig] = None
        faults = [*document.faults]
        if document.is_read:
            try:
                config, found = make(document)
                faults += found
            except Exception as error:
                # No file, however odd, is to end what runs.
                what = f"cannot be used: {type(error).__name__}: {error}"
                faults.append(Fault(path, 0, "", what))
        self._faults += faults
        if not faults:
            self._good[path] = config
            self._said[path] = document.value
        good: Optional[FileConfig] = self._good.get(path)
        return good

    def _task(
        self,
        document: Document,
        installed: Plugins,
        backends: Mapping[str, Optional[BackendConfig]],
        tasks: Mapping[Tuple[str, str, str], TaskConfig],
    ) -> Tuple[Optional[TaskConfig], List[Fault]]:
        task, faults = settings.task(document, installed, backends, tasks)
        if not task or not task.enabled:
            return task, faults
        broker = installed.brokers[task.broker](task.broker_options)
        at = ("broker_options",)
        try:
            self._warnings += [
                document.fault((*at, key), what)
                for key, what in broker.problems().items()
            ]
        except Exception as error:
            what = f"the broker failed to tell its problems: {error!r}"
            self._warnings.append(document.fault(at, what))
        return task, []
