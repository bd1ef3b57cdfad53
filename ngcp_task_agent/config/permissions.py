"""Permissions: what may decide what root runs, and who may read secrets."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

from ngcp_task_agent.brokers.base import Program
from ngcp_task_agent.config.faults import FAULTY, Fault, Schema, Steps
from ngcp_task_agent.config.yaml_file import Document, parse_yaml, unreadable
from ngcp_task_agent.process.users import PATH

LARGEST_FILE = 1 << 20  # bytes
_MOST_STEPS = 1000  # folders and links on the way to a file
_ROOT = frozenset({0})
# The formats of strings in a plugin's options.
_KINDS = ("file", "secret-file", "secret")
_ONLY_ROOT = "only root may decide what root runs"
_ELSEWHERE = "use a folder where only root can write"


class Seen:
    """What has been found out about folders and programs.

    For one load: thousands of files can be in one folder and name one program,
    and each is looked at once.
    """

    def __init__(self) -> None:
        self.ways: Dict[Path, _Way] = {}  # to each folder
        self.flaws: Dict[Program, List[_Flaw]] = {}


def read(
    path: Path, is_in_force: bool = True, seen: Optional[Seen] = None
) -> Document:
    """Read a YAML file; as root, refuse one that other users can change.

    :param is_in_force: whether it decides anything yet
    """
    seen = seen or Seen()
    try:
        # One descriptor: the file that is checked is the one that is read.
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(status.st_mode):
                return unreadable(path, "must be a file")
            if os.geteuid() == 0 and is_in_force:
                flaws = list(_flaws(path, status, seen))
                if flaws:
                    faults = [
                        Fault(flaw.path, 0, "", flaw.explain(_ONLY_ROOT))
                        for flaw in flaws
                    ]
                    return Document(path, FAULTY, faults)
            content = _content(fd, status.st_size)
        finally:
            os.close(fd)
    except BlockingIOError:  # as some of /proc do
        return unreadable(path, "must be a file")
    except OSError as error:
        # The same fault for all files of a folder.
        is_folder = not os.access(path.parent, os.X_OK)
        place = path.parent if is_folder else path
        return Document(path, FAULTY, [os_fault(place, error)])
    if len(content) > LARGEST_FILE:
        return unreadable(path, f"is larger than {LARGEST_FILE} bytes")
    try:
        return parse_yaml(path, content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return unreadable(path, "is not UTF-8", line)


def _content(fd: int, size: int) -> bytes:
    """Read a file, up to one byte too many.

    :param size: what it has, unless it grows, or is one of /proc
    """
    content = b""
    while len(content) <= LARGEST_FILE:
        more = os.read(fd, min(max(size, 4096), LARGEST_FILE) + 1)
        if not more:
            break
        content += more
    return content


def os_fault(path: Path, error: OSError) -> Fault:
    return Fault(path, 0, "", f"cannot be read: {error.strerror}")


def check_program(
    document: Document,
    steps: Steps,
    program: Program,
    seen: Optional[Seen] = None,
) -> None:
    """As root, find out who could change what a file makes root run.

    It is a fault if that is anyone else.  For a folder that a group may write,
    as some administrators want /usr/local, it is a warning; so it is for a
    program of another user, which that user may change.

    :param steps: to the value that names the program
    """
    if os.geteuid() != 0:
        return
    user = program.user
    is_fault = user.uid == 0
    why = _ONLY_ROOT if is_fault else f"others decide what {user.name} runs"
    seen = seen or Seen()
    flaws = seen.flaws.get(program)
    if flaws is None:
        owners = _ROOT | {user.uid}
        paths = _candidates(program.run)
        flaws = [f for path in paths for f in _flaws_of(path, owners, seen)]
        seen.flaws[program] = flaws
    for flaw in flaws:
        found = document.fault(steps, f"{flaw.path} {flaw.explain(why)}")
        if is_fault and not flaw.is_group_of_folder:
            document.faults.append(found)
        else:
            document.warnings.append(found)


def check_files(
    document: Document,
    value: Any,
    schema: Schema,
    at: Steps = (),
    checking: bool = False,
    seen: Optional[Seen] = None,
) -> None:
    """As root, warn about files that others may change, or secrets they read.

    :param at: the steps to a value that is valid against the schema
    :param checking: also warn about files that do not exist, as any user
    """
    if isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if key in value and isinstance(inner, dict):
                steps = (*at, key)
                check_files(document, value[key], inner, steps, checking, seen)
    kind = schema.get("format")
    if not isinstance(value, str) or kind not in _KINDS:
        return
    seen = seen or Seen()
    path = document.path if kind == "secret" else Path(value)
    try:
        status, way = os.stat(path), _way_to(path, seen)
    except OSError as error:
        # Otherwise, its reader reports that.
        if checking and not isinstance(error, PermissionError):
            document.warn(at, f"{path} cannot be read: {error.strerror}")
        return
    if os.geteuid() != 0:
        return
    if kind != "secret":
        for flaw in _flaws(path, status, seen):
            why = flaw.explain("others could change what is read there")
            document.warn(at, f"{flaw.path} {why}")
    folders = [s for s in way.steps.values() if stat.S_ISDIR(s.st_mode)]
    if kind != "file" and status.st_mode & stat.S_IROTH:
        if all(folder.st_mode & stat.S_IXOTH for folder in folders):
            mend = f"fix: chmod o-r {shlex.quote(str(path))}"
            what = f"everybody can read this secret in {path}; {mend}"
            document.warn(at, what)


def check_folder(
    document: Document, steps: Steps, folder: Path, checking: bool = False
) -> None:
    """As root, refuse to write to a folder where others can write, too.

    They could not do much: replace the file, which its readers believe.  The
    folders above it can belong to others: Debian's /var/lib/prometheus does.

    :param steps: to the value that names it
    :param checking: also warn if it does not exist, as any user
    """
    try:
        status = os.stat(folder)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        if checking and not isinstance(error, PermissionError):
            what = f"{folder} cannot be used: {error.strerror}"
            document.warn(steps, what)
        return
    is_sticky = status.st_uid == 0 and status.st_mode & stat.S_ISVTX
    if os.geteuid() != 0 or is_sticky:
        return
    for flaw in _writable(folder, status, _ROOT):
        why = flaw.explain("only root may write where root writes")
        document.add(steps, f"{folder} {why}")


class _Flaw(NamedTuple):
    """How others than its owners could change a file.

    :ivar path: what they could change: the file, or what leads to it
    :ivar mend: a shell command, or empty: in another place it would be safe
    :ivar is_group_of_folder: only a group could, by writing to a folder
    """

    path: Path
    what: str
    mend: str = ""
    is_group_of_folder: bool = False

    def explain(self, why: str) -> str:
        """Return what a fault says about the path."""
        mend = f"fix: {self.mend}" if self.mend else _ELSEWHERE
        return f"{self.what}: {why}; {mend}"


def _flaws_of(path: Path, owners: AbstractSet[int], seen: Seen) -> List[_Flaw]:
    try:
        return [*_flaws(path, os.stat(path), seen, owners)]
    except (FileNotFoundError, NotADirectoryError):
        return [*_flaws(path, None, seen, owners)]
    except OSError:
        return []  # nor can it be run


def _flaws(
    path: Path,
    status: Optional[os.stat_result],
    seen: Seen,
    owners: AbstractSet[int] = _ROOT,
) -> Iterator[_Flaw]:
    """Find out how users other than its owners could change a file.

    Anyone who can write to a folder can replace its files, unless the folder
    is sticky, as /tmp is.

    :param status: of the file itself, with all links followed; None if it
        does not exist
    :raises OSError: when the file can no longer be reached
    """
    if status:
        yield from _writable(path, status, owners)
    way = _way_to(path, seen)
    for step, found in way.steps.items():
        if stat.S_ISLNK(found.st_mode):
            # Links have no mode of their own.
            if found.st_uid not in owners:
                user = _named(found.st_uid, pwd.getpwuid)
                mend = f"chown -h root {shlex.quote(str(step))}"
                yield _Flaw(step, f"is a link owned by the user {user}", mend)
        elif found.st_uid != 0 or not found.st_mode & stat.S_ISVTX:
            yield from _writable(step, found, owners)
        elif step == way.last and not status and _others_write(found):
            what = f"does not exist, and others may create it in {step}"
            yield _Flaw(path, what)


class _Way(NamedTuple):
    """The folders and links that lead to a file, from the root on.

    Anyone who can change one of them chooses which file is read.

    :ivar last: the folder where the file is, or could be created
    :ivar is_whole: all of them exist
    """

    steps: Dict[Path, os.stat_result]
    last: Path
    is_whole: bool


def _way_to(path: Path, seen: Seen) -> _Way:
    """Find the way to a file, looking at its folder only once."""
    path = path.absolute()
    folder = path.parent
    way = seen.ways.get(folder)
    if way is None:
        way = seen.ways[folder] = _walk(folder, is_folder=True)
    if path.name in ("", ".."):
        return _walk(path)
    if way.is_whole:
        try:
            if stat.S_ISLNK(os.lstat(way.last / path.name).st_mode):
                return _walk(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
    return way


def _walk(path: Path, is_folder: bool = False) -> _Way:
    """Follow a path from the root on, through all links.

    :param is_folder: include what the path itself leads to
    """
    at = Path("/")
    found = {at: os.lstat(at)}
    todo = [*path.parts[:0:-1]]
    for _ in range(_MOST_STEPS):
        if not todo:
            return _Way(found, at, True)
        part = todo.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        try:
            status = os.lstat(step)
        except (FileNotFoundError, NotADirectoryError):
            return _Way(found, at, False)
        if stat.S_ISLNK(status.st_mode):
            target = Path(os.readlink(step))
            at = Path("/") if target.is_absolute() else at
            todo += [p for p in target.parts[::-1] if p != "/"]
            found[step] = status
        elif todo or is_folder:
            at = step
            found[step] = status
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _others_write(status: os.stat_result) -> bool:
    # The group's bits count even if the group is root: with an access control
    # list, they are its mask, and apply to everyone that it names.
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _writable(
    path: Path, status: os.stat_result, owners: AbstractSet[int]
) -> Iterator[_Flaw]:
    """Yield the flaw of a file or folder to which others may write, if any."""
    quoted = shlex.quote(str(path))
    mends = [f"chmod go-w {quoted}"] if _others_write(status) else []
    by_group = False
    if status.st_uid not in owners:
        mends.insert(0, f"chown root {quoted}")
        if stat.S_ISDIR(status.st_mode):
            mends = []  # it may be the user's home
        what = f"belongs to the user {_named(status.st_uid, pwd.getpwuid)}"
    elif status.st_mode & stat.S_IWOTH:
        what = "is writable by everyone"
    elif mends:
        by_group = stat.S_ISDIR(status.st_mode)
        group = _named(status.st_gid, grp.getgrgid)
        what = f"is writable by the group {group}"
    else:
        return
    yield _Flaw(path, what, " && ".join(mends), by_group)


def _candidates(run: str) -> Iterator[Path]:
    """Yield where a program may be, up to where it is."""
    for folder in PATH.split(":") if "/" not in run else ["/"]:
        path = Path(folder) / run
        yield path
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return


def _named(number: int, look_up: Callable[[int], Tuple[Any, ...]]) -> str:
    try:
        return f"{look_up(number)[0]} ({number})"
    except KeyError:
        return f"{number}"
