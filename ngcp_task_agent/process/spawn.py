"""The one place where processes are started, with posix_spawn(3)."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process.users import PATH, User

_SETPRIV = "/usr/bin/setpriv"  # of util-linux, which every Debian has

# Python ignores some; others could have been ignored by whoever started the
# agent, and ignored signals stay so in what it starts.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True)
class Command:
    """What to run.

    :param stdin: what the command reads; None for ``/dev/null``
    :param timeout: seconds; None for no limit
    :param max_output: bytes on standard output, and on standard error
    """

    argv: Sequence[str]
    user: User
    environment: Mapping[str, str]
    max_output: int
    stdin: Optional[bytes] = None
    timeout: Optional[float] = None


def find_program(run: str) -> str:
    """The path of a program: ``run`` itself, or looked up in ``PATH``.

    :raises CannotStart: when it is missing, no file or not executable
    """
    if "/" not in run:
        found = shutil.which(run, path=PATH)
        if not found:
            raise CannotStart(f"there is no program '{run}' in {PATH}")
        return found
    if not os.path.exists(run):
        raise CannotStart(f"there is no program '{run}'")
    if not os.path.isfile(run):
        raise CannotStart(f"'{run}' is not a file")
    if not os.access(run, os.X_OK):
        raise CannotStart(f"'{run}' is not executable")
    return run


def spawn(command: Command, stdout: int, stderr: int) -> Tuple[int, int]:
    """Start a command in a session of its own.

    :returns: its process id, which is its group's, and its pidfd
    :raises OSError: which why() explains
    """
    argv = list(command.argv)
    if not command.user.is_own:
        if not _is_program(argv[0]):
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
        # setpriv(1) costs an exec; a setuid between fork and exec would cost
        # a copy of the agent's page tables, and much more.
        argv[:0] = [
            _SETPRIV,
            f"--reuid={command.user.uid}",
            f"--regid={command.user.gid}",
            "--init-groups",
            "--",
        ]
    actions: List[Tuple[Any, ...]] = [
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    stdin = None
    try:
        if command.stdin is None:
            actions.append(
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
            )
        else:
            # A file in memory cannot block the agent, whether the command
            # reads it or not.
            stdin = os.memfd_create("stdin")
            with open(stdin, "wb", closefd=False) as file:
                file.write(command.stdin)
            os.lseek(stdin, 0, os.SEEK_SET)
            actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
        pid = os.posix_spawn(
            argv[0],
            argv,
            command.environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    finally:
        if stdin is not None:
            os.close(stdin)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        # What cannot be watched must not run.
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


# What the system executes: ELF, or a script that names its interpreter.
_PROGRAM = re.compile(rb"\x7fELF|#![ \t]*[^ \t\n\0]")
_HEAD = 256  # bytes in which Linux looks for the interpreter


def _is_program(path: str) -> bool:
    """Whether the system executes the file, as far as can be seen.

    setpriv has a shell run what the system does not execute.
    """
    head = _head(path)
    return head is None or bool(_PROGRAM.match(head))


def _head(path: str) -> Optional[bytes]:
    """The first bytes of a file; None where they cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(file, _HEAD)
    except OSError:
        return None
    finally:
        os.close(file)


# What setpriv writes when it cannot execute the program, in C.UTF-8.
_SETPRIV_FAILED = re.compile(rb"setpriv: failed to execute .*: (.+)\n?\Z")
_REASONS = {
    os.strerror(number): number
    for number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.E2BIG)
}


def not_started(command: Command, last_words: bytes) -> str:
    """Why a program was not started as another user, or nothing.

    :param last_words: the end of standard error of what failed
    """
    failed = _SETPRIV_FAILED.match(last_words)
    if command.user.is_own or not failed:
        return ""
    reason = failed.group(1).decode(errors="replace")
    if reason in _REASONS:
        return why(OSError(_REASONS[reason], reason), command)
    return f"'{command.argv[0]}': {reason}"


_DENIED = os.strerror(errno.EACCES).encode()


def may_be_unreadable(command: Command, last_words: bytes) -> bool:
    """Whether a script may have failed because its user cannot read it.

    setpriv starts it with the rights of root; its interpreter, which has not
    got them, ends with a status of its own choice.
    """
    return (
        not command.user.is_own
        and _DENIED in last_words
        and (_head(command.argv[0]) or b"").startswith(b"#!")
    )


def why(error: OSError, command: Command) -> str:
    """The reason, in words, why a program could not be started."""
    program = command.argv[0]
    if error.errno == errno.ENOENT:
        # The program itself is there, so it must be the one it names.
        return f"'{program}', or the interpreter it names, does not exist"
    if error.errno == errno.EACCES:
        return f"'{program}' is not executable for '{command.user.name}'"
    if error.errno == errno.ENOEXEC:
        return f"'{program}' is no program that the system can execute"
    if error.errno == errno.E2BIG:
        return f"the arguments of '{program}' are too long for the system"
    return f"'{program}': {os.strerror(error.errno or 0)}"
