"""The files that describe an NGCP node; other machines have none."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from typing import Any, Callable, FrozenSet, Iterable, List, Optional, Tuple

import yaml

from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import LONGEST_NAME

_ROLE = re.compile(
    r"^[ \t]*(?:export[ \t]+)?NGCP_IS_(\w+)=(.*)$", re.MULTILINE
)
_YES = re.compile(
    r"""(["']?)(?:yes|true)\1(?![^ \t;])[ \t]*;?[ \t]*(?:\#.*)?""",
    re.IGNORECASE,
)
# libyaml is ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def find_name(root: Path = Path("/")) -> str:
    """Find the node's name, for a configuration that gives none.

    :raises OSError: when descriptors or memory are used up: the node must not
        take another name then
    """
    for file in ("ngcp_hostname", "ngcp_nodename"):
        for line in _lines(root / "etc" / file)[:1]:
            if line.strip():
                return line.strip()[:LONGEST_NAME]
    return socket.gethostname().partition(".")[0]


def host_names(root: Path) -> FrozenSet[str]:
    """Return the host's short and full name, and its full names in /etc/hosts.

    Does not ask the name service, which can be slow, and whose answer must not
    decide who may run a command.

    :raises OSError: as find_name()
    """
    host = socket.gethostname()
    short = host.partition(".")[0]
    names = {host, short}
    for line in _lines(root / "etc/hosts"):
        for name in line.partition("#")[0].split()[1:]:
            if name.lower().startswith(f"{short.lower()}."):
                names.add(name)
    return frozenset(names)


def _lines(path: Path) -> List[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return []


def parse_roles(text: str) -> Tuple[str, ...]:
    """Parse the roles in the shell file /etc/default/ngcp-roles."""
    # As in a shell, the last assignment wins.
    values = {name.lower(): value for name, value in _ROLE.findall(text)}
    roles = {name for name, value in values.items() if _YES.fullmatch(value)}
    return tuple(sorted(roles - {"multi_site"}))


def parse_status(text: str, names: Iterable[str]) -> Optional[str]:
    """Return the status of the first of the names found in network.yml."""
    network = yaml.load(text, Loader=_Loader)
    hosts = network.get("hosts") if isinstance(network, dict) else None
    if not isinstance(hosts, dict):
        return None
    by_name = {str(name).lower(): host for name, host in hosts.items()}
    for name in (*names, "self"):
        host = by_name.get(name.lower())
        if isinstance(host, dict) and isinstance(host.get("status"), str):
            return str(host["status"])
    return None


class WatchedFile:
    """A file that is read again when it has changed.

    :param parse: makes the value from the file's text
    :param broken: the value if the file has never been readable
    :ivar value: None while there is no file
    """

    def __init__(
        self, path: Path, parse: Callable[[str], Any], broken: Any
    ) -> None:
        self.value: Any = None
        self._path = path
        self._parse = parse
        self._broken = broken
        self._version: Any = ()
        self._logged = ""

    def refresh(self) -> None:
        """Read the file if it has changed; blocks."""
        version = self._version
        try:
            version = self._stat()
            if version == self._version:
                return
            value = None
            if version is not None:
                value = self._parse(self._path.read_text(errors="replace"))
        except Exception as error:  # yaml raises more than YAMLError
            # An OSError may pass without a change to the file.
            self._version = () if isinstance(error, OSError) else version
            self._log(_why(error))
            # The file may be half written: keep the last good value.
            if self.value is None:
                self.value = self._broken
        else:
            self._version, self.value, self._logged = version, value, ""

    def _log(self, error: str) -> None:
        if error != self._logged:
            self._logged = error
            journal.record(
                journal.NODE_UNKNOWN, f"{self._path}: cannot be read: {error}"
            )

    def _stat(self) -> Optional[Tuple[int, ...]]:
        """Return what changes with the file; None if there is no file."""
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (
            status.st_mtime_ns,
            status.st_ctime_ns,  # its mode may have changed
            status.st_size,
            status.st_ino,
        )


def _why(error: Exception) -> str:
    """Say what is wrong with a file, without repeating what is in it."""
    if isinstance(error, OSError):
        return str(error.strerror)
    mark = getattr(error, "problem_mark", None)
    return f"not YAML in line {mark.line + 1}" if mark else "not YAML"
