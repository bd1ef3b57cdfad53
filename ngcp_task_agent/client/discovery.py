"""Finds where to send a request, from the agent's own configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

from ngcp_task_agent.backends.redis.dial import describe_server
from ngcp_task_agent.client.errors import NoAddress
from ngcp_task_agent.client.url import parse_url
from ngcp_task_agent.config import permissions
from ngcp_task_agent.config.faults import FAULTY, meant
from ngcp_task_agent.config.loader import DEFAULT_DIR, Config, Loader
from ngcp_task_agent.config.models import BackendConfig
from ngcp_task_agent.node.ngcp_files import find_name

CONTROL_CHANNEL = "ngcp-task-agent-redis"
PASSWORD_VARIABLE = "REDISCLI_AUTH"  # redis-cli reads it, too
_TYPE = "redis"


def own_name() -> str:
    """Return this node's name, for a configuration that gives none."""
    return find_name()


@dataclass(frozen=True)
class Address:
    """Where a client sends requests, and as whom.

    :ivar server: the options of a ``redis`` backend
    :ivar channel: the control channel
    :ivar src: this client's name: the node's, so that ``localhost`` means this
        node
    :ivar notes: sentences that say how it was found
    :ivar assumed: the server is only a guess
    :ivar warning: a note that users should always see, or empty
    """

    server: Mapping[str, Any] = field(default_factory=dict, repr=False)
    channel: str = CONTROL_CHANNEL
    src: str = field(default_factory=own_name)
    notes: Tuple[str, ...] = ()
    assumed: bool = False
    warning: str = ""

    def __str__(self) -> str:
        return (
            f"Redis at {describe_server(self.server)}, control channel "
            f"{self.channel}, as {self.src}"
        )


def load(config_dir: Path = DEFAULT_DIR) -> Tuple[Optional[Config], List[str]]:
    """Load the agent's configuration, as far as this user may read it.

    :returns: the configuration, or None if there is none, and the faults
    """
    try:
        if not config_dir.is_dir():
            return None, [f"{config_dir}: there is no such folder"]
        config = Loader(config_dir).load()
    except OSError as error:
        return None, [f"{config_dir}: cannot be read: {error.strerror}"]
    return config, [str(fault) for fault in config.faults]


def find(
    task: Optional[str] = None,
    *,
    backend: Optional[str] = None,
    channel: Optional[str] = None,
    url: Optional[str] = None,
    config_dir: Union[str, Path] = DEFAULT_DIR,
) -> Address:
    """Find where to send a request for a task.  Blocks: reads files.

    Arguments take precedence.  Otherwise the task's file names the backend and
    the channel; a task that only other nodes have is sent where this node's
    tasks listen.

    :param backend: the name of a file in the folder ``backends``
    :param url: the server, see parse_url(), instead of a backend; its password
        can be in the environment, as REDISCLI_AUTH
    :raises NoAddress: when there is no such backend, or several fit
    """
    config_dir = Path(config_dir)
    config, notes = load(config_dir)
    backends = config.backends if config else {}
    usable = {name for name, b in backends.items() if b.type == _TYPE}
    tasks = [
        t
        for t in (config.tasks if config else ())
        if t.backend in usable
        and backend in (None, t.backend)
        and channel in (None, t.channel)
    ]
    named = [t for t in tasks if t.name == task]
    warning = ""
    if task is not None and not named:
        note = f"this node's configuration has no usable task '{task}'"
        # With channel and server given, the task's own file does not matter.
        if config and not (channel and (url or backend)):
            fault = _fault_of_task(
                task, config, config_dir, url is None and backend is None
            )
            if fault:
                note = warning = f"{note}: {fault}"
        notes.append(note)
    server: Mapping[str, Any] = {}
    assumed = False
    if url is not None:
        server = parse_url(url)
        password = os.environ.get(PASSWORD_VARIABLE)
        if password and "password" not in server:
            server = {**server, "password": password}
            notes.append(f"the password is taken from ${PASSWORD_VARIABLE}")
    else:
        if backend is not None:
            _check_backend(backend, backends, config_dir, notes)
            wanted = [backend]
        elif not named and _TYPE in usable:
            wanted = [_TYPE]  # the name that nodes use by default
        else:
            wanted = sorted({t.backend for t in named} or usable)
        if len(wanted) > 1:
            raise NoAddress(
                f"several backends fit ({', '.join(wanted)}): name one "
                "(--backend)"
            )
        if wanted:
            server = backends[wanted[0]].options
            tasks = [t for t in tasks if t.backend == wanted[0]]
            named = [t for t in tasks if t.name == task]
            notes.append(f"{backends[wanted[0]].path}: says where Redis is")
        else:
            assumed = True
            notes.append(
                f"nothing says where Redis is: trying {describe_server({})}"
            )
    channels = sorted({t.channel for t in named or tasks})
    if named and len(channels) > 1:
        raise NoAddress(
            f"task '{task}' is on several control channels "
            f"({', '.join(channels)}): name one (--channel)"
        )
    return Address(
        server,
        channel or (channels[0] if len(channels) == 1 else CONTROL_CHANNEL),
        (config and config.agent.node.name) or own_name(),
        tuple(notes),
        assumed,
        warning,
    )


def _fault_of_task(
    task: str, config: Config, config_dir: Path, needs_backend: bool
) -> str:
    """Say why the task's own file is not in force; empty if unknown.

    Skips faults caused only by this user's missing read permission.

    :param needs_backend: the task's backend decides where Redis is
    :raises NoAddress: for a fault of that backend
    """
    in_force = {t.path for t in config.tasks}
    # Only the first fault of each file.
    faults = {fault.path: fault for fault in reversed(config.faults)}
    try:
        paths = sorted((config_dir / "tasks").glob("[!.]*.yml"))
    except OSError:
        return ""
    for path in paths:
        if path in in_force or not os.access(path, os.R_OK):
            continue
        document = permissions.read(path)
        value = document.value if isinstance(document.value, dict) else {}
        # If its name cannot be read, use the file's.
        if value.get("name", path.stem) != task:
            continue
        backend = config_dir / "backends" / f"{value.get('backend')}.yml"
        if needs_backend and backend in faults and os.access(backend, os.R_OK):
            # Another backend would be another server, with other agents.
            raise NoAddress(f"the backend of task '{task}': {faults[backend]}")
        if document.value is FAULTY:
            return str(document.faults[0])
        for fault in config.faults:
            if fault.path == path and not (
                fault.where == "backend" and backend in faults
            ):
                return str(fault)
        if value.get("enabled") is False:
            return str(document.fault(("enabled",), "is set to no"))
    return ""


def _check_backend(
    name: str,
    backends: Mapping[str, BackendConfig],
    config_dir: Path,
    notes: Sequence[str],
) -> None:
    """
    :raises NoAddress: if there is no usable backend of that name
    """
    if name not in backends:
        file = config_dir / "backends" / f"{name}.yml"
        places = tuple(f"{path}:" for path in (file, file.parent, config_dir))
        faults = [note for note in notes if note.startswith(places)]
        if faults:
            raise NoAddress(
                f"backend '{name}' cannot be used: {'; '.join(faults)}"
            )
        raise NoAddress(
            f"there is no backend '{name}': no usable file {file}"
            f"{meant(name, backends)}"
        )
    if backends[name].type != _TYPE:
        raise NoAddress(
            f"backend '{name}' has the type '{backends[name].type}': this "
            f"client supports only '{_TYPE}'"
        )
