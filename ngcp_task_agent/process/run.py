"""The one place where processes are watched and ended; spawn.py starts them.

asyncio's own subprocesses are not used: their ``wait()`` also waits for the
pipes, so that a grandchild that keeps one open holds up the ending (mended
only in 2026), their watchers differ between Python 3.9 and 3.14, and they
are slower.  Here a command has a session of its own and is watched through a
pidfd.  It is reaped only after its process group was ended: until then the
group's id cannot belong to anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
from dataclasses import dataclass, replace
from typing import Optional, Tuple

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process.spawn import (
    Command,
    may_be_unreadable,
    not_started,
    spawn,
    why,
)

KILL_AFTER = 2.0  # seconds from TERM to KILL
_REAP_WITHIN = 5.0  # seconds that a killed process may take to be gone
_REAP_EVERY = 0.05  # seconds between looks whether it is gone
_CLOSE_WITHIN = 0.2  # seconds for pipes to close after their process ended
_NOT_STARTED = (126, 127)  # exit statuses of setpriv, as of a shell
_ASK_WITHIN = 5.0  # seconds for the question whether a file is readable
_READ = 65536  # bytes, a pipe's usual size
_LAST_WORDS = 4096  # bytes of standard error that are kept


class Cause(enum.Enum):
    """Why a command ended."""

    EXITED = "it ended by itself"
    TIMEOUT = "it ran too long"
    OUTPUT = "it wrote too much"
    STOPPED = "somebody asked for its end"


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote.

    Of ``exit_status`` and ``signal`` one is None, and both are where even
    SIGKILL did not end the process in time, or a debugger holds it.
    """

    cause: Cause
    exit_status: Optional[int]
    signal: Optional[int]
    stdout: bytes
    last_words: bytes  # the end of standard error


class Process:
    """One run of a command: ``await Process(command).run()``, once."""

    def __init__(self, command: Command) -> None:
        self._command = command
        loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = loop.create_future()

    def stop(self) -> None:
        """Ask for the end; run() returns soon, with ``Cause.STOPPED``."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def run(self) -> Outcome:
        """Start the command and wait for its end.

        When this returns or raises, nothing of the command is left but what
        moved to another process group, and the kernel's unkillable.  When it
        is cancelled, the command is killed on the spot.

        :raises CannotStart: when the command could not be started
        """
        child = _Child(self._command)
        try:
            cause = await self._wait(child)
            if cause is not Cause.EXITED:
                await child.end()
            await child.close_pipes()
            await child.let_go()
            if cause is Cause.EXITED and child.has_overflowed:
                # Only seen now, as it has ended so soon.
                cause = Cause.OUTPUT
        finally:
            child.kill()
            status = child.reap()
        last_words = bytes(child.stderr.data)
        if status[0] and not child.stdout.data:
            await self._check_started(status[0], last_words)
        return Outcome(cause, *status, bytes(child.stdout.data), last_words)

    async def _check_started(self, status: int, last_words: bytes) -> None:
        """Whether what has failed was ever started.

        :raises CannotStart: when it was not
        """
        command = self._command
        if status in _NOT_STARTED:
            reason = not_started(command, last_words)
            if reason:
                raise CannotStart(reason)
        if may_be_unreadable(command, last_words):
            program = command.argv[0]
            ask = replace(
                command,
                argv=["/usr/bin/test", "-r", program],
                stdin=None,
                timeout=_ASK_WITHIN,
            )
            try:
                outcome = await Process(ask).run()
            except CannotStart:
                return
            if outcome.exit_status == 1:
                raise CannotStart(
                    f"'{program}' is not readable for '{command.user.name}'"
                )

    async def _wait(self, child: _Child) -> Cause:
        events = {
            child.exited: Cause.EXITED,
            child.stdout.overflowed: Cause.OUTPUT,
            child.stderr.overflowed: Cause.OUTPUT,
            self._stopped: Cause.STOPPED,
        }
        await asyncio.wait(
            events,
            timeout=self._command.timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        # What it did by itself counts before what would have been done to it.
        for event, cause in events.items():
            if event.done():
                return cause
        return Cause.TIMEOUT


class _Child:
    """A started command, its pidfd and the pipes from it."""

    def __init__(self, command: Command) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            try:
                out_read, out_write = os.pipe2(os.O_CLOEXEC)
                ours.callback(os.close, out_read)
                theirs.callback(os.close, out_write)
                err_read, err_write = os.pipe2(os.O_CLOEXEC)
                ours.callback(os.close, err_read)
                theirs.callback(os.close, err_write)
                if not command.user.is_own:
                    # The command may open /dev/stdout again as its own user.
                    for end in (out_write, err_write):
                        os.fchown(end, command.user.uid, command.user.gid)
                self._pid, self._pidfd = spawn(command, out_write, err_write)
            except OSError as error:
                raise CannotStart(why(error, command)) from None
            except ValueError:
                # NUL, or what the locale's encoding does not have.
                raise CannotStart(
                    f"'{command.argv[0]}' cannot be given such a text"
                ) from None
            ours.pop_all()
        loop.add_reader(self._pidfd, self._on_exit)
        self.stdout = _Pipe(loop, out_read, command.max_output, keep_end=0)
        self.stderr = _Pipe(loop, err_read, command.max_output, _LAST_WORDS)

    @property
    def has_overflowed(self) -> bool:
        return self.stdout.overflowed.done() or self.stderr.overflowed.done()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.exited.done():
            self.exited.set_result(None)

    async def end(self) -> None:
        """TERM to the group, then KILL; returns when the leader is gone."""
        self._signal(signal.SIGTERM)
        await asyncio.wait({self.exited}, timeout=KILL_AFTER)
        if not self.exited.done():
            self._signal(signal.SIGKILL)
            await asyncio.wait({self.exited}, timeout=_REAP_WITHIN)

    async def close_pipes(self) -> None:
        """Take what is still in the pipes, without waiting for ever."""
        pipes = (self.stdout, self.stderr)
        for last in (False, True):
            await asyncio.wait(
                {pipe.closed for pipe in pipes}, timeout=_CLOSE_WITHIN
            )
            # A loop that was busy elsewhere has not read all that was there.
            for pipe in pipes:
                pipe.take_all()
            if last or all(pipe.closed.done() for pipe in pipes):
                return
            # Somebody of the group keeps a pipe open.
            self.kill()

    def kill(self) -> None:
        """KILL for whoever is left of the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            # Gone, or all that is left has become somebody else's (sudo).
            pass

    async def let_go(self) -> None:
        """Wait until no debugger holds what has ended, but not for ever."""
        deadline = self._loop.time() + _REAP_WITHIN
        while self.exited.done() and not self._status(os.WNOWAIT):
            if self._loop.time() > deadline:
                return
            self.kill()  # it may be of the group
            await asyncio.sleep(_REAP_EVERY)

    def reap(self) -> Tuple[Optional[int], Optional[int]]:
        """Close everything; the exit status, the signal.

        A process that is still there is reaped whenever it goes.
        """
        self.stdout.close()
        self.stderr.close()
        self._loop.remove_reader(self._pidfd)
        status = self._status()
        if status is None:
            self._loop.add_reader(self._pidfd, self._reap_late)
            return None, None
        os.close(self._pidfd)
        if status.si_code == os.CLD_EXITED:
            return status.si_status, None
        return None, status.si_status

    def _reap_late(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._status():
            os.close(self._pidfd)
        else:
            self._loop.call_later(_REAP_EVERY, self._reap_late)

    def _status(self, more: int = 0) -> Optional[os.waitid_result]:
        """How it has ended; None while it runs, or a debugger holds it."""
        flags = os.WEXITED | os.WNOHANG | more
        return os.waitid(os.P_PIDFD, self._pidfd, flags)


class _Pipe:
    """The reading end of a pipe: gathers what comes, up to a limit.

    Past the limit it goes on reading, so that the writer does not block.

    :param keep_end: keep only that many of the last bytes; 0 for all
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        limit: int,
        keep_end: int,
    ) -> None:
        self.data = bytearray()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.overflowed: asyncio.Future[None] = loop.create_future()
        self._loop, self._fd, self._left = loop, fd, limit
        self._keep_end = keep_end
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._on_readable)

    def take_all(self) -> None:
        """Read what is there now, up to the limit."""
        while not self.closed.done() and not self.overflowed.done():
            if not self._on_readable():
                return

    def _on_readable(self) -> bool:
        """Read once; whether there was anything."""
        try:
            got = os.read(self._fd, _READ)
        except BlockingIOError:
            return False
        if not got:
            self.close()
            return False
        if len(got) > self._left:
            got = got[: self._left]
            if not self.overflowed.done():
                self.overflowed.set_result(None)
        self._left -= len(got)
        self.data += got
        if self._keep_end:
            del self.data[: -self._keep_end]
        return True

    def close(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
