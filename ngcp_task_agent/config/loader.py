"""The configuration: a folder of YAML files, read again at every reload.

A faulty file is left out, or keeps its last good version if it had one; other
files are not affected.  All faults of all files are reported at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

from ngcp_task_agent.config import models, permissions, plugins
from ngcp_task_agent.config.faults import Fault
from ngcp_task_agent.config.models import (
    AgentConfig,
    BackendConfig,
    TaskConfig,
)
from ngcp_task_agent.config.plugins import Plugins
from ngcp_task_agent.config.yaml_file import Document, unreadable
from ngcp_task_agent.logs import journal
from ngcp_task_agent.process import users

DEFAULT_DIR = Path("/etc/ngcp-task-agent")

FileConfig = TypeVar("FileConfig", AgentConfig, BackendConfig, TaskConfig)


class Config(NamedTuple):
    """The usable part of all files, and the faults of the rest.

    :ivar folder: where the files are
    :ivar tasks: the enabled tasks whose backend is usable; no two have the
        same name, backend and channel
    :ivar warnings: files that are not read, and what is unsafe; for a loader
        that is checking, also what would make a valid task fail now
    :ivar kept: number of faulty files whose last good version is in force
    :ivar left_out: number of faulty files with nothing in force
    """

    folder: Path
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

    :param checking: also warn about programs and users that do not exist
    """

    def __init__(self, folder: Path, checking: bool = False) -> None:
        self.folder = folder
        self._checking = checking
        # A file to be checked as if it was in the folder, by its place there.
        self._new: Dict[Path, Path] = {}
        # What each file's last contents without faults were parsed into.
        self._good: Dict[Path, Any] = {}
        self._seen = permissions.Seen()
        self._documents: List[Document] = []
        self._faults: List[Fault] = []  # of folders
        self._warnings: List[Fault] = []  # about files that are not read

    def load(self) -> Config:
        """Read all files."""
        with users.remembering():
            config = self._load()
        # In memory, they are larger than what runs.
        self._documents, self._seen = [], permissions.Seen()
        return config

    def _load(self) -> Config:
        known = plugins.installed()
        self._seen = permissions.Seen()
        self._documents, self._faults, self._warnings = [], [], []
        self._look_at_folder()
        agent_file = self.folder / "agent.yml"
        has_file = os.path.lexists(agent_file) or agent_file in self._new
        agent_files = [agent_file] if has_file else []
        backend_files = self._files("backends")
        task_files = self._files("tasks")
        files = {*agent_files, *backend_files, *task_files}
        self._good = {p: g for p, g in self._good.items() if p in files}

        agent: Optional[AgentConfig] = AgentConfig()
        for document in map(self._read, agent_files):
            agent = self._settle(
                document, self._parse(document, models.parse_agent)
            )
        named: Dict[str, Optional[BackendConfig]] = {}
        for document in map(self._read, backend_files):
            named[document.path.stem] = self._settle(
                document, self._parse(document, models.parse_backend, known)
            )
        backends = {name: found for name, found in named.items() if found}
        claims: Dict[Path, models.Place] = {}
        parsed = []
        for document in map(self._read, task_files):
            task = self._parse(
                document, models.parse_task, known, named, claims
            )
            parsed.append((document, task))
        tasks = self._claim_names(parsed, claims, backends.keys())
        for document, task in parsed:
            self._settle(document, task)

        # Without its backend, even a task's last good version is not in force.
        in_force = {task.path for task in tasks}
        in_force.update(backend.path for backend in backends.values())
        in_force.update({agent_file} & self._good.keys())
        faulty = {d.path for d in self._documents if d.faults}
        # Files can share the fault of a folder, and two checks can find the
        # same value of the wrong type.
        faults, warnings = {*self._faults}, {*self._warnings}
        for document in self._documents:
            faults.update(document.faults)
            warnings.update(document.warnings)
        return Config(
            self.folder,
            known,
            agent or models.UNKNOWN_NODE,
            backends,
            tasks,
            tuple(sorted(faults)),
            tuple(sorted(warnings)),
            kept=len(faulty & in_force),
            left_out=len(faulty - in_force),
        )

    def check(self, file: Path) -> Document:
        """Check a file as if it was in the folder, in the place of its name.

        A file in a folder ``backends`` is a backend, one elsewhere a task.
        The faults of a task's backend are also its own.
        """
        if os.path.isdir(file):
            what = "is a folder; to check one: --check --config-dir DIR"
            return unreadable(file, what)
        kind = file.absolute().parent.name
        is_guess = kind not in ("backends", "tasks")
        if is_guess:
            kind = "" if file.name == "agent.yml" else "tasks"
        self._new = {self.folder / kind / file.name: file}
        config = self._load()
        document = next(d for d in self._documents if d.path == file)
        keys = document.value if isinstance(document.value, dict) else {}
        no_task = keys and not keys.keys() & {*models.TASK_SCHEMA["required"]}
        if is_guess and kind and no_task:
            what = (
                "is checked as a task; to check a backend, put it in a folder "
                "'backends'"
            )
            document.faults = [Fault(file, 0, "", what)]
        if kind == "tasks" and not document.is_sound("backend"):
            folder = self.folder / "backends"
            causes = self.folder, folder, folder / f"{keys.get('backend')}.yml"
            document.faults += [f for f in config.faults if f.path in causes]
        return document

    def _look_at_folder(self) -> None:
        """Warn about files that look like configuration but are not read."""
        try:
            paths = _list(self.folder)
        except OSError as error:
            fault = permissions.os_fault(self.folder, error)
            if isinstance(error, FileNotFoundError):
                fault = Fault(self.folder, 0, "", "there is no such folder")
            elif isinstance(error, NotADirectoryError):
                what = "is not a folder; to check one file: --check FILE"
                fault = Fault(self.folder, 0, "", what)
            self._faults.append(fault)
            return
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

    def _files(self, name: str) -> List[Path]:
        """List a folder's ``.yml`` files, sorted by name."""
        folder = self.folder / name
        new = {path for path in self._new if path.parent == folder}
        try:
            paths = _list(folder)
        except FileNotFoundError:
            paths = []
        except OSError as error:
            # The folder above may have the same fault.
            if not any(fault.path == self.folder for fault in self._faults):
                self._faults.append(permissions.os_fault(folder, error))
            # The files may still be there: keep them.
            paths = [path for path in self._good if path.parent == folder]
        for path in paths:
            if _is_yaml(path) and path.suffix != ".yml":
                self._warn(path, "its name must end with '.yml'")
        found = {*new, *(p for p in paths if p.suffix == ".yml")}
        return sorted(found, key=lambda path: path.name)

    def _warn(self, path: Path, why: str) -> None:
        self._warnings.append(Fault(path, 0, "", f"is not read: {why}"))

    def _read(self, path: Path) -> Document:
        new = self._new.get(path)
        if not new:
            return permissions.read(path, seen=self._seen)
        # Outside the folder it decides nothing, so its owner does not matter.
        is_there = os.path.realpath(new) == os.path.realpath(path)
        document = permissions.read(new, is_in_force=is_there)
        is_named = new.suffix == ".yml" and new.name[0] != "."
        if not is_named and not document.faults:
            what = "is not read under this name: call it NAME.yml"
            document.warnings.append(Fault(new, 0, "", what))
        return document

    def _parse(
        self,
        document: Document,
        parse: Callable[..., Optional[FileConfig]],
        *known: Any,
    ) -> Optional[FileConfig]:
        self._documents.append(document)
        try:
            parsed = parse(document, *known, self._checking, self._seen)
            if not self._new:
                # Of thousands, they would take more memory than what runs.
                document.forget(("name",))
            return parsed
        except Exception as error:
            # No file, however odd, may stop the agent.  Python's message may
            # quote it.
            what = f"cannot be used: {type(error).__name__}"
            document.faults.append(Fault(document.path, 0, "", what))
            return None

    def _settle(
        self, document: Document, parsed: Optional[FileConfig]
    ) -> Optional[FileConfig]:
        """Return what is in force: what was parsed, or the last good version.

        :param parsed: None if the document has faults
        """
        if not document.faults:
            self._good[document.path] = parsed
        good: Optional[FileConfig] = self._good.get(document.path)
        return good

    def _claim_names(
        self,
        parsed: Sequence[Tuple[Document, Optional[TaskConfig]]],
        claims: Mapping[Path, models.Place],
        backends: Collection[str],
    ) -> Tuple[TaskConfig, ...]:
        """Return the tasks in force; a name that two files claim is a fault.

        Then the last good version of each is in force, if it has one, and that
        can clash with yet another file.
        """
        faulty: Set[Path] = set()
        while True:
            in_force: Dict[models.Place, TaskConfig] = {}
            holders: Dict[models.Place, Set[Path]] = {}
            for document, task in parsed:
                path = document.path
                held = self._good.get(path) if document.faults else task
                if held and held.enabled and held.backend in backends:
                    in_force.setdefault(held.place, held)
                    holders.setdefault(held.place, set()).add(path)
                if path in claims:
                    holders.setdefault(claims[path], set()).add(path)
            before = len(faulty)
            for document, _ in parsed:
                path = document.path
                if path in faulty or path not in claims:
                    continue
                others = sorted(holders[claims[path]] - {path})
                if others:
                    files = ", ".join(map(str, others))
                    have = "have" if len(others) > 1 else "has"
                    what = (
                        f"{files} {have} a task of this name on this channel"
                    )
                    document.add(("name",), f"{what}: rename one")
                    faulty.add(path)
            if len(faulty) == before:
                return tuple(in_force.values())


def _list(folder: Path) -> List[Path]:
    # Editors leave hidden files behind.
    return [folder / n for n in sorted(os.listdir(folder)) if n[0] != "."]


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yml", ".yaml")
