"""Permissions: which files may decide what root runs."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

from ngcp_task_agent.config.faults import FAULTY, Fault
from ngcp_task_agent.config.yaml_file import Document, parse_yaml, unreadable

LARGEST_FILE = 1 << 20  # bytes
_MOST_STEPS = 1000  # folders and links on the way to a file


def read(path: Path) -> Document:
    """Read a YAML file; as root, refuse one that other users can change."""
    try:
        # One descriptor: the file that is checked is the one that is read.
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return unreadable(path, "must be a file")
            why = why_not_trusted(path, status) if os.geteuid() == 0 else ""
            if why:
                return unreadable(path, why)
            content = file.read(LARGEST_FILE + 1)
            if content is None:  # it would block, as some of /proc do
                return unreadable(path, "must be a file")
    except OSError as error:
        return Document(path, FAULTY, [os_fault(path, error)])
    if len(content) > LARGEST_FILE:
        return unreadable(path, f"is larger than {LARGEST_FILE} bytes")
    try:
        return parse_yaml(path, content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return unreadable(path, "is not UTF-8", line)


def _open(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe would wait for its writer.
    return os.open(path, flags | os.O_NONBLOCK)


def os_fault(path: Path, error: OSError) -> Fault:
    return Fault(path, 0, "", f"cannot be read: {error.strerror}")


def why_not_trusted(path: Path, status: os.stat_result) -> str:
    """Say how a user other than root could change a file; empty if none can.

    Anyone who can write to a folder can replace its files, unless the folder
    is sticky, as /tmp is.

    :param status: of the file itself, with all links followed
    :raises OSError: when the file can no longer be reached
    """
    why = _writers(status)
    for step, status in _components(path).items():
        if why:
            break
        if stat.S_ISLNK(status.st_mode):
            # Links have no mode of their own.
            if status.st_uid != 0:
                user = _named(status.st_uid, pwd.getpwuid)
                why = f"{step} is a link owned by the user {user}"
        elif status.st_uid != 0 or not status.st_mode & stat.S_ISVTX:
            writers = _writers(status)
            why = f"its folder {step} {writers}" if writers else ""
    return f"{why}: only root may decide what root runs" if why else ""


def _components(path: Path) -> Dict[Path, os.stat_result]:
    """Find the folders and links that lead to a file, from the root on.

    Anyone who can change one of them chooses which file is read.
    """
    at = Path("/")
    found = {at: os.lstat(at)}
    todo = [*path.absolute().parts[:0:-1]]
    for _ in range(_MOST_STEPS):
        if not todo:
            return found
        part = todo.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        status = os.lstat(step)
        if stat.S_ISLNK(status.st_mode):
            target = Path(os.readlink(step))
            at = Path("/") if target.is_absolute() else at
            todo += [p for p in target.parts[::-1] if p != "/"]
            found[step] = status
        elif todo:
            at = step
            found[step] = status
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _writers(status: os.stat_result) -> str:
    """Say which users other than root may write to a file, or nothing."""
    user, group = status.st_uid, status.st_gid
    if user != 0:
        return f"belongs to the user {_named(user, pwd.getpwuid)}"
    if status.st_mode & stat.S_IWOTH:
        return "is writable by everyone"
    # Even if the group is root: with an access control list, these bits are
    # its mask, and apply to everyone that it names.
    if status.st_mode & stat.S_IWGRP:
        return f"is writable by the group {_named(group, grp.getgrgid)}"
    return ""


def _named(number: int, look_up: Callable[[int], Tuple[Any, ...]]) -> str:
    try:
        return f"{look_up(number)[0]} ({number})"
    except KeyError:
        return f"{number}"
