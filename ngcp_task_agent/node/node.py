"""Node: who this machine is: names, roles, state, status, labels.

What the configuration does not say is found as on NGCP nodes; on any other
machine the node is its short host name, active, online and without roles.
State, status and roles can change at any time.  They are read in the
background, so that no request waits for them, and are never older than a
second: a state that could not be read in time is ``unknown``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import time
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Tuple,
)

import yaml

from ngcp_task_agent import background
from ngcp_task_agent.config.models import UNKNOWN, NodeConfig
from ngcp_task_agent.config.yaml_file import UNCONSTRUCTED
from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node.identity import Identity
from ngcp_task_agent.process.run import (
    Cause,
    Process,
)
from ngcp_task_agent.process.spawn import Command, find_program
from ngcp_task_agent.process.users import own_user

CHECK_ACTIVE = ("/usr/sbin/ngcp-check-active", "-v")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 0.7  # seconds between two readings
_OLDEST = 1.0  # seconds that a state may be old
_STATE_WITHIN = 5.0  # seconds that the state command may take at most
_STATE_OUTPUT = 4096  # bytes
_LONGEST_NAME = 255  # characters of the src of a message


class Node:
    """Keeps the identity up to date between start() and stop().

    Making one reads files and may ask a name service: do it in a thread.

    :param root: where to look for the system's files; other than ``/`` only
        in tests
    :raises OSError: when descriptors or memory are used up: then nobody
        knows the node's name
    """

    def __init__(self, config: NodeConfig, root: Path = Path("/")) -> None:
        self.config = config
        # Once asked for, it is known wherever it is needed.
        self._user = own_user()
        host = socket.gethostname()
        short = host.partition(".")[0]
        self._name = (
            config.name
            or _first_line(root / "etc/ngcp_hostname")
            or _first_line(root / "etc/ngcp_nodename")
            or short
        )
        names = {self._name, host, short, *config.aliases}
        names.update(_full_names(root / "etc/hosts", short))
        self._names = frozenset(name.lower() for name in names)
        self._roles = _Watched(
            root / "etc/default/ngcp-roles", _read_roles, broken=()
        )
        self._network = _Watched(
            root / "etc/ngcp-config/network.yml",
            self._read_status,
            broken=UNKNOWN,
        )
        self._state = config.state or "active"
        self._state_read = 0.0
        self._state_command = config.state_command
        check = root / CHECK_ACTIVE[0].lstrip("/")
        if not config.state and not config.state_command and check.exists():
            self._state_command = (str(check), *CHECK_ACTIVE[1:])
        self._slow = False
        self._pollers: List[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        return self._name

    def identity(self) -> Identity:
        """Who the node is now; does not wait."""
        state = self._state
        if self._state_command:
            if time.monotonic() - self._state_read > _OLDEST:
                state = UNKNOWN
        config = self.config
        facts: Dict[str, Tuple[str, ...]] = {
            key.lower(): (value,) for key, value in config.labels.items()
        }
        roles = self._roles.value if config.roles is None else config.roles
        facts["state"] = (state,)
        facts["status"] = (config.status or self._network.value or "online",)
        facts["role"] = roles or ()
        return Identity(self._name, self._names, facts)

    async def start(self) -> None:
        """Read everything once, then go on in the background."""
        await asyncio.gather(self._read_files(), self._read_state())
        self._pollers = [background.start(self._poll_files())]
        if self._state_command:
            self._pollers.append(background.start(self._poll_state()))

    async def stop(self) -> None:
        for poller in self._pollers:
            await background.end(poller)

    async def _poll_files(self) -> None:
        while True:
            await asyncio.sleep(_LONGEST_PAUSE)
            await self._read_files()

    async def _poll_state(self) -> None:
        """Ask again and again; the slower it is, the earlier."""
        took = 0.0
        while True:
            pause = _OLDEST - 0.2 - 2 * took
            await asyncio.sleep(
                min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, pause))
            )
            begin = time.monotonic()
            await self._read_state()
            took = time.monotonic() - begin
            self._set_slow(took > _OLDEST - _SHORTEST_PAUSE, took)

    async def _read_files(self) -> None:
        if self.config.roles is None:
            await self._roles.refresh()
        if self.config.status is None:
            await self._network.refresh()

    async def _read_state(self) -> None:
        if not self._state_command:
            return
        state, why = await self._ask_state(self._state_command)
        if state != self._state or not self._state_read:
            kind = journal.NODE_UNKNOWN if why else journal.NODE_CHANGED
            journal.record(
                kind, f"the state of this node is {state}{why and ': '}{why}"
            )
        self._state = state
        self._state_read = time.monotonic()

    def _set_slow(self, slow: bool, took: float) -> None:
        if slow and not self._slow:
            journal.record(
                journal.NODE_UNKNOWN,
                f"state_command: it takes {took:.1f} s, and between its "
                f"answers the state is unknown when {_OLDEST:.0f} s old",
            )
        self._slow = slow

    async def _ask_state(self, argv: Tuple[str, ...]) -> Tuple[str, str]:
        """The state, and why it is unknown."""
        try:
            command = Command(
                [find_program(argv[0]), *argv[1:]],
                self._user,
                self._user.environment(),
                _STATE_OUTPUT,
                timeout=_STATE_WITHIN,
            )
            outcome = await Process(command).run()
        except CannotStart as error:
            return UNKNOWN, f"state_command: {error}"
        if outcome.cause is not Cause.EXITED:
            return UNKNOWN, f"state_command: {outcome.cause.value}"
        if outcome.last_words:
            return UNKNOWN, "state_command: it wrote to standard error"
        words = outcome.stdout.decode(errors="replace").split()
        if len(words) != 1:
            return UNKNOWN, "state_command: it did not print one word"
        # A check may tell "not active" by its exit status too.  But whoever
        # says both "active" and "failed" is not to be believed.
        if outcome.exit_status != 0 and words[0].lower() == "active":
            return UNKNOWN, (
                "state_command: it printed 'active' but ended with exit "
                f"status {outcome.exit_status}"
            )
        return words[0].lower(), ""

    def _read_status(self, text: str) -> Optional[str]:
        """The status of this host in network.yml; None where it has none."""
        network = yaml.load(text, Loader=_SafeLoader)
        hosts = network.get("hosts") if isinstance(network, dict) else None
        if not isinstance(hosts, dict):
            return None
        by_name = {str(name).lower(): host for name, host in hosts.items()}
        for name in (self._name, *sorted(self._names), "self"):
            host = by_name.get(name.lower())
            if isinstance(host, dict) and isinstance(host.get("status"), str):
                return str(host["status"])
        return None


# Ten times as fast as the one in Python, where libyaml is there.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Watched:
    """A file that is read again when it has changed.

    :param read: makes the value of the file's text, in a thread
    :param broken: the value of a file that never could be read
    :ivar value: None while there is no file
    """

    def __init__(
        self, path: Path, read: Callable[[str], Any], broken: Any
    ) -> None:
        self.value: Any = None
        self._broken = broken
        self._path = path
        self._read = read
        self._version: Any = ()
        self._told = ""

    async def refresh(self) -> None:
        value: Any = None
        try:
            version = await asyncio.to_thread(self._stat)
            if version == self._version:
                return
            if version is not None:
                value = await asyncio.to_thread(self._load)
        except OSError as error:
            # This can pass without a change of the file.
            self._version = ()
            self._fail(error)
        except (yaml.YAMLError, *UNCONSTRUCTED) as error:
            self._version = version
            self._fail(error)
        else:
            self._version, self.value, self._told = version, value, ""

    def _fail(self, error: Exception) -> None:
        # Perhaps half written: what was good stays.
        if self.value is None:
            self.value = self._broken
        text = " ".join(str(error).split())
        if text != self._told:
            self._told = text
            journal.record(
                journal.NODE_UNKNOWN, f"{self._path}: cannot be read: {text}"
            )

    def _load(self) -> Any:
        return self._read(self._path.read_text(errors="replace"))

    def _stat(self) -> Optional[Tuple[int, ...]]:
        """What changes with the file; None where there is none."""
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (
            status.st_mtime_ns,
            status.st_ctime_ns,  # also of who may read it
            status.st_size,
            status.st_ino,
        )


_ROLE = re.compile(
    r"^[ \t]*(?:export[ \t]+)?NGCP_IS_(\w+)=(.*)$", re.MULTILINE
)
_YES = re.compile(
    r"""(["']?)(?:yes|true)\1(?![^ \t;])[ \t]*;?[ \t]*(?:\#.*)?""",
    re.IGNORECASE,
)


def _read_roles(text: str) -> Tuple[str, ...]:
    """The roles in the shell file /etc/default/ngcp-roles."""
    # As in a shell, the last assignment wins.
    values = {name.lower(): value for name, value in _ROLE.findall(text)}
    roles = {name for name, value in values.items() if _YES.fullmatch(value)}
    return tuple(sorted(roles - {"multi_site"}))


def _raise_if_it_may_pass(error: OSError) -> None:
    """A node must not take another name for a want of descriptors."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def _first_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        _raise_if_it_may_pass(error)
        return ""
    return lines[0].strip()[:_LONGEST_NAME] if lines else ""


def _full_names(hosts: Path, short: str) -> List[str]:
    """The full names of a host in /etc/hosts.

    The name service is not asked: it can take as long as its servers are
    away, and who may run a command must not depend on their answer.
    """
    try:
        lines = hosts.read_text(errors="replace").splitlines()
    except OSError as error:
        _raise_if_it_may_pass(error)
        return []
    names = (n for line in lines for n in line.partition("#")[0].split()[1:])
    return [n for n in names if n.lower().startswith(short.lower() + ".")]
