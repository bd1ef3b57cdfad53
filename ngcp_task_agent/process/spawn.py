"""The only place that starts processes, with posix_spawn(3)."""

from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process.users import PATH, User

# From coreutils, which every Debian has.  setpriv(1) takes twice as long: its
# libraries.
_CHROOT = "/usr/sbin/chroot"
_CHROOT_FAILED = (125, 126, 127)  # its exit statuses
_CHROOT_SAYS = re.compile("(?:/usr/sbin/)?chroot: (.*)\n")  # 9.1 adds its path

# A child inherits ignored signals: those that Python ignores, and those that
# were ignored when the agent started.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

# What Linux executes: ELF, or a script that names its interpreter.
_PROGRAM = re.compile(rb"\x7fELF|#![ \t]*[^ \t\n\0]")
_HEAD = 256  # bytes in which Linux looks for the interpreter


@dataclass(frozen=True)
class Command:
    """What to run.

    :param stdin: what the command reads; None for ``/dev/null``
    :param timeout: seconds; None for no limit
    :param max_output: bytes on standard output, and on standard error
    :param on_stdout: called with what it writes to standard output, as it
        comes, and with ``b""`` at the end
    :param on_stderr: the same for standard error
    """

    argv: Sequence[str]
    user: User
    environment: Mapping[str, str]
    max_output: int
    stdin: Optional[bytes] = None
    timeout: Optional[float] = None
    on_stdout: Optional[Callable[[bytes], None]] = None
    on_stderr: Optional[Callable[[bytes], None]] = None


def find_program(run: str) -> str:
    """Return a program's path: ``run`` itself, or looked up in ``PATH``.

    :raises CannotStart: when it is missing, not a file or not executable
    """
    if "/" not in run:
        for folder in PATH.split(":"):
            path = f"{folder}/{run}"
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        raise CannotStart(f"there is no program '{run}' in {PATH}")
    if not os.path.exists(run):
        raise CannotStart(f"there is no program '{run}'")
    if not os.path.isfile(run):
        raise CannotStart(f"'{run}' is not a file")
    if not os.access(run, os.X_OK):
        raise CannotStart(f"'{run}' is not executable")
    return run


def spawn(command: Command, stdout: int, stderr: int) -> Tuple[int, int]:
    """Start a command in its own session.

    Linux schedules each session by itself (autogroup in sched(7)).  A process
    group alone would start faster on a busy machine, but commands that take
    all of the processor would then delay the agent's answers.

    :returns: its process id, which is also its group's, and its pidfd
    :raises OSError: which why() explains
    :raises ValueError: when a word contains NUL or cannot be encoded
    """
    argv = list(command.argv)
    if not command.user.is_own:
        # chroot would run anything else with a shell.
        if not _is_program(argv[0]):
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
        # An exec more.  A setuid between fork and exec would cost far more: a
        # copy of the agent's page tables.
        argv[:0] = [
            _CHROOT,
            f"--userspec=+{command.user.uid}:+{command.user.gid}",
            "--groups=" + ",".join(f"+{g}" for g in command.user.groups),
            "--skip-chdir",
            "/",  # the root stays
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
            # A file in memory never blocks the agent, even if the command
            # does not read it.
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
        # A process that cannot be watched must not run.
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _is_program(path: str) -> bool:
    """Whether Linux executes the file; True if it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return bool(_PROGRAM.match(os.read(file, _HEAD)))
    except OSError:
        return True
    finally:
        os.close(file)


def check_started(
    command: Command, status: int, stdout: bytes, stderr: bytes
) -> None:
    """Find out whether a command of another user was started.

    :param status: its exit status
    :raises CannotStart: when it was not
    """
    if command.user.is_own or status not in _CHROOT_FAILED or stdout:
        return
    said = _CHROOT_SAYS.fullmatch(stderr.decode(errors="replace"))
    if not said:
        return
    if status == 125:
        user = command.user.name
        raise CannotStart(f"'{command.argv[0]}' as '{user}': {said[1]}")
    text = said[1].rpartition(": ")[2]
    number = next((n for n in errno.errorcode if os.strerror(n) == text), 0)
    raise CannotStart(why(OSError(number, text), command))


def why(error: Exception, command: Command) -> str:
    """Explain why a program could not be started.

    :param error: OSError or ValueError
    """
    program = command.argv[0]
    if not isinstance(error, OSError):
        return (
            f"an argument or a variable for '{program}' contains NUL or "
            "cannot be encoded"
        )
    try:
        find_program(program)
    except CannotStart as flaw:
        return str(flaw)
    if error.errno == errno.ENOENT:
        return f"'{program}', or the interpreter it names, does not exist"
    if error.errno == errno.EACCES:
        return f"'{program}' is not executable for '{command.user.name}'"
    if error.errno == errno.ENOEXEC:
        return (
            f"'{program}' is not a program that the system can execute; a "
            "script needs #! in its first line"
        )
    if error.errno == errno.E2BIG:
        return f"the arguments of '{program}' are too long for the system"
    return f"'{program}': {error.strerror}"
