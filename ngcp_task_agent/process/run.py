"""The only place that watches and ends processes; spawn.py starts them.

asyncio's own subprocesses are not used.  Their ``wait()`` also waits for the
pipes, so a grandchild that keeps one open delays the end (fixed only in 2026);
their watchers differ between Python 3.9 and 3.14; and they are slower.

Each command has its own session, and is watched through a pidfd.  It is reaped
only after its process group was killed: until then no other group can get the
same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import Callable, List, Optional

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process.exits import exits_of
from ngcp_task_agent.process.pipe import Pipe
from ngcp_task_agent.process.spawn import (
    Command,
    check_started,
    spawn,
    why,
)

KILL_AFTER = 2.0  # seconds from TERM to KILL
REAP_WITHIN = 5.0  # seconds that a killed process may take to disappear
CLOSE_WITHIN = 0.2  # seconds for pipes to close after their process ended
WATCH_AFTER = 0.005  # seconds until output and timeout are watched
_POLL = 0.02  # seconds between checks of a process that should end
STDERR_KEPT = 4096  # bytes


class EndCause(enum.Enum):
    """Why a command ended."""

    EXITED = "it ended by itself"
    TIMEOUT = "it ran too long"
    OUTPUT = "it wrote too much"
    STOPPED = "it was stopped"
    MEMORY = "memory ran out"  # of units only
    UNSEEN = "nobody saw it end"  # a unit, while the bus was away


@dataclass(frozen=True)
class Exit:
    """How a command ended, and what it wrote.

    Either ``exit_status`` or ``signal`` is None.  Both are if even SIGKILL
    did not end the process in time, or a debugger holds it.
    """

    cause: EndCause
    exit_status: Optional[int]
    signal: Optional[int]
    stdout: bytes
    stderr: bytes  # the end of it


class Process:
    """One run of a command: ``await Process(command).run()``, once.

    :ivar pid: None before it has started
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[EndCause] = self._loop.create_future()
        self._status: Optional[os.waitid_result] = None
        self._timeout: Optional[asyncio.TimerHandle] = None
        self.pid: Optional[int] = None

    def stop(self) -> None:
        """End the command; run() returns soon, with ``EndCause.STOPPED``."""
        self._set_end(EndCause.STOPPED)

    async def run(self) -> Exit:
        """Start the command and wait for its end.

        Afterwards, the only processes left have moved to another group or
        cannot be killed by the kernel.  Cancelling this kills the command at
        once.

        :raises CannotStart: when the command could not be started
        """
        self._start()
        try:
            self._watch()
            cause = await self._finish()
        finally:
            self._close()
        stdout, stderr = bytes(self._stdout.data), bytes(self._stderr.data)
        # Free the output now: the pipes refer to this object.
        del self._stdout, self._stderr
        exit_status = number = None
        if self._status and self._status.si_code == os.CLD_EXITED:
            exit_status = self._status.si_status
            check_started(self._command, exit_status, stdout, stderr)
        elif self._status:
            number = self._status.si_status
        return Exit(cause, exit_status, number, stdout, stderr)

    def _set_end(self, cause: EndCause) -> None:
        if not self._end.done():
            self._end.set_result(cause)

    def _start(self) -> None:
        command, loop = self._command, self._loop
        limit = command.max_output
        too_much = partial(self._set_end, EndCause.OUTPUT)
        self._stdout = Pipe(loop, limit, None, too_much, command.on_stdout)
        self._stderr = Pipe(
            loop, limit, STDERR_KEPT, too_much, command.on_stderr
        )
        writers: List[int] = []
        try:
            writers.append(self._stdout.open())
            writers.append(self._stderr.open())
            exits_of(loop)  # else the process could not be watched
            if not command.user.is_own:
                # The command may reopen /dev/stdout as its own user.
                for writer in writers:
                    os.fchown(writer, command.user.uid, command.user.gid)
            self.pid, self._pidfd = spawn(command, *writers)
        except (OSError, ValueError) as error:
            self._stdout.close()
            self._stderr.close()
            raise CannotStart(why(error, command)) from None
        finally:
            for writer in writers:
                os.close(writer)
        if command.stdin:
            # It has its own copy of what it reads.
            self._command = dataclasses.replace(command, stdin=None)

    def _watch(self) -> None:
        # Most commands end before that, and need neither.
        self._watcher = self._loop.call_later(WATCH_AFTER, self._watch_long)
        try:
            exits_of(self._loop).add(
                self._pidfd, partial(self._set_end, EndCause.EXITED)
            )
        except OSError as error:
            raise CannotStart(why(error, self._command)) from None

    def _watch_long(self) -> None:
        """Watch the timeout and the output of a command that still runs."""
        if self._command.timeout is not None:
            self._timeout = self._loop.call_at(
                self._watcher.when() - WATCH_AFTER + self._command.timeout,
                self._set_end,
                EndCause.TIMEOUT,
            )
        self._watch_output()

    def _watch_output(self) -> None:
        try:
            self._stdout.watch()
            self._stderr.watch()
        except OSError:
            # The system allows no more watches: poll.
            self._read_all()
            self._watcher = self._loop.call_later(_POLL, self._watch_output)

    async def _finish(self) -> EndCause:
        """Wait for a reason to end the command, then end it."""
        cause = await self._end
        if cause is not EndCause.EXITED:
            if self._is_reapable():
                # It ended by itself first.
                cause = EndCause.EXITED
            else:
                self._signal(signal.SIGTERM)
                if not await self._poll(self._is_reapable, KILL_AFTER):
                    self._signal(signal.SIGKILL)
        if not await self._poll(self._read_all, CLOSE_WITHIN):
            # A grandchild keeps a pipe open.
            self._signal(signal.SIGKILL)
            await self._poll(self._read_all, CLOSE_WITHIN)
        # A debugger, perhaps in the same group, may hold it.
        await self._poll(self._reap, REAP_WITHIN)
        has_overflowed = self._stdout.is_full or self._stderr.is_full
        if cause is EndCause.EXITED and has_overflowed:
            return EndCause.OUTPUT
        return cause

    async def _poll(
        self, condition: Callable[[], bool], seconds: float
    ) -> bool:
        """Wait for a condition, which usually holds at once."""
        deadline = self._loop.time() + seconds
        while not condition():
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(_POLL)
        return True

    def _is_reapable(self) -> bool:
        """Whether it has ended, and no debugger holds it."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PIDFD, self._pidfd, flags) is not None

    def _read_all(self) -> bool:
        """Read what the pipes hold; return whether both are closed."""
        return all([self._stdout.read_all(), self._stderr.read_all()])

    def _signal(self, number: int) -> None:
        # PermissionError: all that is left runs as another user (sudo).
        assert self.pid, "it has started"
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _reap(self) -> bool:
        """Kill what is left of the group and reap, if that is possible."""
        self._signal(signal.SIGKILL)
        flags = os.WEXITED | os.WNOHANG
        self._status = os.waitid(os.P_PIDFD, self._pidfd, flags)
        if not self._status:
            return False
        exits_of(self._loop).discard(self._pidfd)
        os.close(self._pidfd)
        return True

    def _close(self) -> None:
        """Close everything; reap, later if it is still there."""
        self._watcher.cancel()
        if self._timeout:
            self._timeout.cancel()
        self._stdout.close()
        self._stderr.close()
        if not self._status:
            self._reap_later()

    def _reap_later(self) -> None:
        if not self._reap():
            self._loop.call_later(_POLL, self._reap_later)
