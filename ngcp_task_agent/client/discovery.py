"""Finds where to send a request, from the agent's own configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union

from ngcp_task_agent.backends.redis.dial import describe_server
from ngcp_task_agent.client.errors import NoAddress
from ngcp_task_agent.client.url import parse_url
from ngcp_task_agent.config import permissions
from ngcp_task_agent.config.faults import FAULTY, Fault, meant
from ngcp_task_agent.config.loader import DEFAULT_DIR, Config, Loader
from ngcp_task_agent.config.models import TaskConfig
from ngcp_task_agent.node.ngcp_files import find_name

CONTROL_CHANNEL = "ngcp-task-agent-redis"
PASSWORD_VARIABLE = "REDISCLI_AUTH"  # redis-cli reads it, too
#: The options of a backend that give it.
PASSWORDS = frozenset({"password", "password_file"})
_TYPE = "redis"
DEFAULT_BACKEND = _TYPE  # the name that nodes use
_ADVICE = "; use sudo, or give both --url and --channel"


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
    :ivar backend: the name of the backend that it is from, or empty
    :ivar is_password_spare: the password is for servers that want one; it is
        from the environment
    :ivar timeouts: how many seconds tasks may run, by name, where their files
        say so; 0 without a limit
    """

    server: Mapping[str, Any] = field(default_factory=dict, repr=False)
    channel: str = CONTROL_CHANNEL
    src: str = field(default_factory=own_name)
    notes: Tuple[str, ...] = ()
    assumed: bool = False
    warning: str = ""
    backend: str = ""
    timeouts: Mapping[str, float] = field(default_factory=dict, repr=False)
    is_password_spare: bool = False

    def task_timeout(self, task: str) -> Optional[float]:
        """Return how many seconds a task may run, by its own file.

        0 without a limit; None if the file does not say, or is not there.
        """
        return self.timeouts.get(task)

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
        os.stat(config_dir)
    except (FileNotFoundError, NotADirectoryError):
        return None, [f"{config_dir}: there is no such folder"]
    except OSError:
        pass  # it may be there: the loader says why it cannot be read
    config = Loader(config_dir).load()
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

    The server is guessed only if no configuration says where it is.  If this
    user merely cannot read that, another user could listen at the guessed
    address, get the data and forge the answers.

    :param backend: the name of a file in the folder ``backends``
    Where the server's password is not given, it is taken from the environment,
    as REDISCLI_AUTH.

    :param url: the server, see parse_url(), instead of a backend
    :raises NoAddress: when there is no such backend, several fit, or a file
        that matters cannot be read
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
    # With channel and server given, the task's own file does not matter.
    is_needed = not (channel and (url or backend))
    if config and is_needed and not named:
        for part in ("tasks",) if backend else ("backends", "tasks"):
            _check_readable(_faults_in(config, config_dir / part))
    warning = ""
    if task is not None and not named:
        note = f"this node's configuration has no usable task '{task}'"
        if config and is_needed:
            fault = _fault_of_task(
                task, config, config_dir, url is None and backend is None
            )
            if fault:
                note = warning = f"{note}: {fault}"
        notes.append(note)
    server: Mapping[str, Any] = {}
    source = ""
    assumed = False
    if url is not None:
        server = parse_url(url)
    else:
        if backend is not None:
            _check_backend(backend, config, config_dir)
            wanted = [backend]
        elif not named and DEFAULT_BACKEND in usable:
            wanted = [DEFAULT_BACKEND]
        else:
            wanted = sorted({t.backend for t in named} or usable)
        if len(wanted) > 1:
            raise NoAddress(
                f"several backends fit ({', '.join(wanted)}): name one "
                "(--backend)"
            )
        if wanted:
            source = wanted[0]
            server = backends[source].options
            _check_secrets(server)
            tasks = [t for t in tasks if t.backend == wanted[0]]
            named = [t for t in tasks if t.name == task]
            notes.append(f"{backends[wanted[0]].path}: says where Redis is")
        else:
            why = [f"none is a {_TYPE}"] if backends else []
            if config:
                # A file that is not read was meant to say something.
                faults = _faults_in(config, config_dir / "backends")
                why = [*map(str, [*faults, *config.warnings]), *why]
            if why:
                what = "this node's configuration has no usable backend"
                raise NoAddress(f"{what}: {why[0]}")
            assumed = True
            notes.append(
                f"nothing says where Redis is: trying {describe_server({})}"
            )
    password = os.environ.get(PASSWORD_VARIABLE)
    is_spare = bool(password) and not server.keys() & PASSWORDS
    if is_spare:
        server = {**server, "password": password}
        notes.append(f"the password is taken from ${PASSWORD_VARIABLE}")
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
        source,
        _timeouts(tasks),
        is_spare,
    )


def _timeouts(tasks: Iterable[TaskConfig]) -> Mapping[str, float]:
    found: Dict[str, float] = {}
    for task in tasks:
        timeout = task.broker_options.get("timeout")
        if isinstance(timeout, (int, float)):
            # Of several with the same name, the longest; 0 is longer.
            times = timeout, found.get(task.name, timeout)
            found[task.name] = max(times) if all(times) else 0
    return found


def _faults_in(config: Config, folder: Path) -> List[Fault]:
    """Return the faults of a folder's files, of it, and of the one above."""
    return [
        f
        for f in config.faults
        if f.path in (folder, folder.parent) or f.path.parent == folder
    ]


def _check_readable(faults: Iterable[Fault]) -> None:
    """
    :raises NoAddress: for a file or a folder that this user may not read
    """
    for fault in faults:
        if not os.access(fault.path, os.R_OK):
            raise NoAddress(f"{fault}{_ADVICE}")


def _check_secrets(server: Mapping[str, Any]) -> None:
    """
    :raises NoAddress: if the login needs a file that cannot be read
    """
    for path in (server.get("password_file"), *server.get("tls", {}).values()):
        if path and not os.access(path, os.R_OK):
            raise NoAddress(f"{path}: cannot be read{_ADVICE}")


def _fault_of_task(
    task: str, config: Config, config_dir: Path, needs_backend: bool
) -> str:
    """Say why the task's own file is not in force; empty if unknown.

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
        if path in in_force:
            continue
        document = permissions.read(path)
        value = document.value if isinstance(document.value, dict) else {}
        # If its name cannot be read, use the file's.
        if value.get("name", path.stem) != task:
            continue
        backend = config_dir / "backends" / f"{value.get('backend')}.yml"
        if needs_backend and backend in faults:
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
    name: str, config: Optional[Config], config_dir: Path
) -> None:
    """
    :raises NoAddress: if there is no usable backend of that name
    """
    backends = config.backends if config else {}
    if name not in backends:
        file = config_dir / "backends" / f"{name}.yml"
        places = (file, file.parent, config_dir)
        faults = (
            [f for f in config.faults if f.path in places] if config else []
        )
        _check_readable(faults)
        if faults:
            raise NoAddress(
                f"backend '{name}' cannot be used: "
                f"{'; '.join(map(str, faults))}"
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
