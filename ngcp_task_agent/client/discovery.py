"""Where to send a request: what the agent's own configuration says."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)
from urllib.parse import parse_qsl, unquote, urlsplit

from ngcp_task_agent.backends.redis.dial import describe_server
from ngcp_task_agent.client.errors import NoAddress
from ngcp_task_agent.config import permissions as trusted
from ngcp_task_agent.config.loader import DEFAULT_DIR, Config, Loader
from ngcp_task_agent.config.models import BackendConfig, NodeConfig, TaskConfig
from ngcp_task_agent.node.node import Node

CONTROL_CHANNEL = "ngcp-task-agent-redis"
PASSWORD = "REDISCLI_AUTH"  # in the environment, as redis-cli has it
_TYPE = "redis"
_TLS_FILES = ("ca", "cert", "key")


def own_name() -> str:
    """This node's name, where its configuration does not give one."""
    return Node(NodeConfig()).name


@dataclass(frozen=True)
class Address:
    """Where a client sends requests, and as whom.

    :ivar server: the options of a ``redis`` backend
    :ivar channel: the control channel
    :ivar src: this client's name: as the node's, so that ``localhost`` is
        this node
    :ivar notes: how it was found, sentences for a person
    :ivar assumed: nothing has said which server
    :ivar warning: one of the notes, which a person should see in any case;
        else empty
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
    """The agent's configuration as far as this user may read it, and notes.

    None where there is none.
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
    """Where to send a request for a task.  Blocks: reads files.

    What is given decides.  Else the file of the task says which backend and
    which channel; other nodes can have tasks that this one has not: those
    are sent where this node's tasks listen.

    :param backend: the name of a file in the folder ``backends``
    :param url: the server, see parse_url(); instead of a backend.  Its
        password can be in the environment, as REDISCLI_AUTH
    :raises NoAddress: when there is no such backend, or several would do
    """
    config_dir = Path(config_dir)
    config, notes = load(config_dir)
    src = own_name()
    if config and config.agent.node.name:
        src = config.agent.node.name
    warning = ""
    tasks = _tasks(config, backend, channel)
    named = [t for t in tasks if t.name == task]
    if task is not None and not named:
        notes.append(f"this node's configuration has no usable task '{task}'")
        # Where all is given, the file would not have been asked.
        if config and not (channel and (url or backend)):
            warning = _why_unusable(
                task, config, config_dir, url is None and backend is None
            )
        if warning:
            notes[-1] = warning = f"{notes[-1]}: {warning}"
    server: Mapping[str, Any]
    if url is not None:
        server, assumed = parse_url(url), False
        password = os.environ.get(PASSWORD)
        if password and "password" not in server:
            server = {**server, "password": password}
            notes.append(f"the password is that of ${PASSWORD}")
    else:
        found = _backend(config, backend, named, config_dir, notes)
        server, assumed = (found.options if found else {}), found is None
        tasks = [t for t in tasks if found and t.backend == found.name]
        named = [t for t in named if t in tasks]
        if found:
            notes.append(f"{found.path}: says where Redis is")
        else:
            notes.append(
                "nothing says where Redis is: trying "
                f"{describe_server(server)}"
            )
    return Address(
        server,
        channel or _channel(task, named or tasks, bool(named)),
        src,
        tuple(notes),
        assumed,
        warning,
    )


def _why_unusable(
    task: str, config: Config, config_dir: Path, needs_backend: bool
) -> str:
    """The fault of the task's own file, or nothing.

    None that only this user sees, who may not read all files.

    :param needs_backend: its backend is what tells where Redis is
    :raises NoAddress: for a fault of the task's backend
    """
    in_force = {t.path for t in config.tasks}
    faulty = {fault.path for fault in config.faults}
    try:
        paths = sorted((config_dir / "tasks").glob("[!.]*.yml"))
    except OSError:
        return ""  # the folder itself may not be looked into
    for path in paths:
        if path in in_force or not os.access(path, os.R_OK):
            continue
        document = trusted.read(path)
        value = document.value if isinstance(document.value, dict) else {}
        # One that does not tell its name is known by that of the file.
        if value.get("name", path.stem) != task:
            continue
        backend = config_dir / "backends" / f"{value.get('backend')}.yml"
        if needs_backend and os.access(backend, os.R_OK):
            # Another one would be another server, with other agents.
            for fault in config.faults:
                if fault.path == backend:
                    raise NoAddress(f"the backend of task '{task}': {fault}")
        for fault in config.faults:
            if fault.path == path and not (
                fault.where == "backend" and backend in faulty
            ):
                return str(fault)
        if value.get("enabled") is False:
            return str(document.fault(("enabled",), "it is no"))
    return ""


def _tasks(
    config: Optional[Config], backend: Optional[str], channel: Optional[str]
) -> List[TaskConfig]:
    """The tasks that what is given leaves."""
    if not config:
        return []
    return [
        task
        for task in config.tasks
        if config.backends[task.backend].type == _TYPE
        and backend in (None, task.backend)
        and channel in (None, task.channel)
    ]


def _backend(
    config: Optional[Config],
    name: Optional[str],
    named: Sequence[TaskConfig],
    config_dir: Path,
    notes: Sequence[str],
) -> Optional[BackendConfig]:
    """The backend to use; None to try the defaults.

    :param named: the tasks of the name that is to run
    """
    backends = config.backends if config else {}
    if name is not None:
        if name not in backends:
            raise NoAddress(_no_backend(config_dir, name, backends, notes))
        if backends[name].type != _TYPE:
            raise NoAddress(
                f"backend '{name}' is of the type '{backends[name].type}': "
                f"this client speaks only with '{_TYPE}'"
            )
        return backends[name]
    usable = {n: b for n, b in backends.items() if b.type == _TYPE}
    wanted = sorted({task.backend for task in named}) or sorted(usable)
    if len(wanted) > 1 and not named and _TYPE in usable:
        # The one that a node has by default.
        return usable[_TYPE]
    if len(wanted) > 1:
        raise NoAddress(
            f"several backends would do ({', '.join(wanted)}): name one "
            "(--backend)"
        )
    return usable[wanted[0]] if wanted else None


def _no_backend(
    config_dir: Path, name: str, known: Iterable[str], notes: Sequence[str]
) -> str:
    file = config_dir / "backends" / f"{name}.yml"
    places = tuple(f"{path}:" for path in (file, file.parent, config_dir))
    about = [note for note in notes if note.startswith(places)]
    if about:
        return f"backend '{name}' cannot be used: {'; '.join(about)}"
    what = f"there is no backend '{name}': no usable file {file}"
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"{what}; is '{close[0]}' meant?"
    return f"{what}; known: {', '.join(names)}" if names else what


def _channel(
    task: Optional[str], tasks: Sequence[TaskConfig], is_named: bool
) -> str:
    """The channel that these tasks listen on."""
    channels = sorted({task.channel for task in tasks})
    if len(channels) == 1:
        return channels[0]
    if is_named:
        raise NoAddress(
            f"task '{task}' is on several control channels "
            f"({', '.join(channels)}): name one (--channel)"
        )
    return CONTROL_CHANNEL


def parse_url(url: str) -> Dict[str, Any]:
    """The options of a ``redis`` backend for a URL.

    ``redis://[[user]:password@]host[:port]``, ``rediss://`` for TLS with
    ``?ca=/file&cert=/file&key=/file``, or ``unix://[[user]:password@]/path``.
    A database, as in ``redis://host/1``, makes no difference to messages.

    :raises NoAddress: saying what is wrong; without the password
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        # Whose text can hold the password.
        raise _bad_url(url, "the server's name is none") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise NoAddress("a URL must begin with redis://, rediss:// or unix://")
    try:
        port = parts.port
    except ValueError:
        port = 0
    options: Dict[str, Any] = {}
    for key, value in (
        ("username", parts.username),
        ("password", parts.password),
    ):
        if value:
            options[key] = unquote(value)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        if host or not parts.path.startswith("/"):
            raise _bad_url(url, "the path in unix:///path must be absolute")
        options["unix_socket"] = unquote(parts.path)
        query.pop("db", None)
    else:
        if not url.partition(":")[2].startswith("//"):
            raise _bad_url(url, f"a slash is missing: {parts.scheme}://")
        if not re.fullmatch(r"/?\d*", parts.path):
            raise _bad_url(
                url, "after the server's name only /DATABASE can stand"
            )
        if port == 0:
            raise _bad_url(url, "the port must be from 1 to 65535")
        options["host"] = host or "127.0.0.1"
        if port:
            options["port"] = port
    if parts.scheme == "rediss":
        options["tls"] = {
            key: query.pop(key) for key in _TLS_FILES if key in query
        }
    if query or parts.fragment:
        known = ", ".join(_TLS_FILES) if "tls" in options else "nothing"
        raise _bad_url(url, f"after ? {known} can stand")
    return options


def _bad_url(url: str, what: str) -> NoAddress:
    """A fault of a URL, without any part of it: it can be the password."""
    if "@" in url:
        what += (
            "; in a password / ? # and @ are to be written as %2F %3F %23 "
            "and %40"
        )
    return NoAddress(f"not a usable URL: {what}")
