"""Names of units: which are valid, and those that the agent gives."""

from __future__ import annotations

import os
import re
from pathlib import Path

LONGEST = 255  # characters of a unit's name
_TYPES = (
    "service|socket|target|device|mount|automount|swap|timer|path|slice|scope"
)
#: What systemd takes for a unit's name, with or without its type; no template.
UNIT_NAME = (
    rf"^(?!.*@\.({_TYPES})\Z)"
    r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]+)?\Z"
)
_TYPED = re.compile(rf".+\.({_TYPES})")

_UNSAFE = re.compile("[^A-Za-z0-9:_.]")
_PATH_UNSAFE = re.compile(rb"[^A-Za-z0-9]|^[0-9]")
_LONGEST_PART = 180  # characters of a task's name, escaped
_LONGEST_FOLDER = 60  # the same, of a folder
_HASH = 12  # hexadecimal digits


def full_name(name: str) -> str:
    """Return a unit's name with its type: a service, unless it has one.

    :raises ValueError: when it is too long
    """
    if not _TYPED.fullmatch(name):
        name += ".service"
    if len(name) > LONGEST:
        raise ValueError(f"unit: has more than {LONGEST} characters")
    return name


def object_path(unit: str) -> str:
    """Return the path of a unit's object on the bus."""
    escaped = _PATH_UNSAFE.sub(
        lambda found: b"_%02x" % found.group()[0], unit.encode()
    )
    return f"/org/freedesktop/systemd1/unit/{escaped.decode()}"


def run_prefix(task: str) -> str:
    """Return what the names of a task's units begin with, without a dash.

    Drop-ins in ``PREFIX-.service.d`` apply to these units, and to no others:
    the task's dashes, which would make more prefixes, are escaped.
    """
    return f"ngcp-task-{_part(task, _LONGEST_PART)}"


def run_name(task: str) -> str:
    """Return a new unit's name for a run of a task."""
    return f"{run_prefix(task)}-{os.urandom(8).hex()}.service"


def slice_name(folder: Path) -> str:
    """Return the slice for an agent's runs.

    :param folder: the agent's configuration; another slice for each, unless
        the environment names one
    """
    given = os.environ.get("NGCP_TASK_AGENT_SLICE")
    if given:
        return given
    path = os.path.realpath(folder)
    readable = _part(path.strip("/") or "root", _LONGEST_FOLDER)
    return f"system-ngcptask_{readable}_{_hash(path)}.slice"


def _part(text: str, longest: int) -> str:
    """Escape text as systemd-escape(1) does, but for ``/``; cut it.

    What is cut ends with a hash, or two could become one.
    """
    escaped = [_UNSAFE.sub(_escape, letter) for letter in text]
    if len("".join(escaped)) <= longest:
        return "".join(escaped)
    while len("".join(escaped)) > longest - _HASH - 1:
        escaped.pop()
    return f"{''.join(escaped)}_{_hash(text)}"


def _escape(found: re.Match[str]) -> str:
    return "".join(rf"\x{byte:02x}" for byte in os.fsencode(found.group()))


def _hash(text: str) -> str:
    import hashlib  # few names need it

    return hashlib.sha256(os.fsencode(text)).hexdigest()[:_HASH]
