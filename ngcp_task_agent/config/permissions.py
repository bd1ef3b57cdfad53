"""Files that may tell root what to run."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import List, Optional

from ngcp_task_agent.config import yaml_file as yamlfile
from ngcp_task_agent.config.yaml_file import Document, Fault

_LARGEST = 1 << 20  # bytes of a file
_LONGEST_WAY = 1000  # folders and links


def read(path: Path) -> Document:
    """Read a file, if it is one that may tell root what to run."""
    try:
        # One descriptor: what is checked is what is read.
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Document(
                    path, faults=[Fault(path, 0, "", "must be a file")]
                )
            insecure = _insecure(path, status)
            if insecure:
                return Document(path, faults=[insecure])
            content = file.read(_LARGEST + 1)
    except OSError as error:
        return Document(path, faults=[os_fault(path, error)])
    if len(content) > _LARGEST:
        what = f"is larger than {_LARGEST} bytes"
        return Document(path, faults=[Fault(path, 0, "", what)])
    try:
        return yamlfile.read(path, content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Document(path, faults=[Fault(path, line, "", "is not UTF-8")])


def _open(path: str, flags: int) -> int:
    # To open a pipe would otherwise wait for its writer.
    return os.open(path, flags | os.O_NONBLOCK)


def os_fault(path: Path, error: OSError) -> Fault:
    return Fault(path, 0, "", f"cannot be read: {error.strerror}")


def _insecure(path: Path, status: os.stat_result) -> Optional[Fault]:
    """The fault of a file that others than root could change, for root.

    Who may write to a folder can replace what is in it, unless the folder is
    sticky, as /tmp is.
    """
    if os.geteuid() != 0:
        return None
    why = _writers(status)
    if why:
        what = f"{why}: it tells root what to run, so only root may write it"
        return Fault(path, 0, "", what)
    for step in _way(path):
        status = os.lstat(step)
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid != 0:
                what = (
                    f"{step} is a link of {_user(status.st_uid)}: only root "
                    "may say what is run"
                )
                return Fault(path, 0, "", what)
            continue
        why = _writers(status)
        if why and not (status.st_uid == 0 and status.st_mode & stat.S_ISVTX):
            what = (
                f"its folder {step} {why}: only root may write where files "
                "tell root what to run"
            )
            return Fault(path, 0, "", what)
    return None


def _way(path: Path) -> List[Path]:
    """The folders and links that lead to a file, from the root on.

    Whoever can change one of them chooses which file is read.
    """
    at, way = Path("/"), [Path("/")]
    todo = [part for part in path.absolute().parts[::-1] if part != "/"]
    while todo:
        part = todo.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        if step.is_symlink():
            target = Path(os.readlink(step))
            at = Path("/") if target.is_absolute() else at
            todo += [p for p in target.parts[::-1] if p != "/"]
            way.append(step)
        else:
            at = step
            if todo:
                way.append(step)
        if len(way) > _LONGEST_WAY:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return list(dict.fromkeys(way))


def _writers(status: os.stat_result) -> str:
    """How others than root may write a file, or nothing."""
    if status.st_uid != 0:
        return f"belongs to {_user(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "may be written by everybody"
    # Also where the group is root: with an ACL these bits are its mask, and
    # stand for whomever it names.
    if status.st_mode & stat.S_IWGRP:
        return f"may be written by {_group(status.st_gid)}"
    return ""


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return f"the user {number}"


def _group(number: int) -> str:
    try:
        return f"the group {grp.getgrgid(number).gr_name} ({number})"
    except KeyError:
        return f"the group {number}"
