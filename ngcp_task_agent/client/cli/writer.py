"""Writes to standard output or standard error in a thread.

A reader can be slow or stop: a pipe is then full, or Ctrl-S holds a terminal.
Meanwhile answers, timers and Ctrl-C must still work.  Only a thread allows
that for every kind of file: O_NONBLOCK would apply to all processes that share
it, and poll() does not say how much a terminal takes.
"""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import errno
import fcntl
import math
import os
import select
import termios
from typing import Callable, Optional, TextIO

_PIECE = 4096  # characters
_SHORTEST, _LONGEST = 0.001, 0.1  # seconds between checks


class WriteError(Exception):
    """Standard output cannot be written, or is not read.

    :ivar is_closed: its reader has gone
    """

    def __init__(self, error: OSError) -> None:
        reason = error.strerror or "cannot be written"
        super().__init__(f"standard output: {reason}")
        self.is_closed = error.errno == errno.EPIPE


class Writer:
    """Takes text at once, and writes it as fast as it is read.

    :param stream: a file with a descriptor; None if it is closed
    :ivar error: why nothing more can be written
    :ivar on_error: called in the thread when ``error`` is set
    """

    def __init__(self, stream: Optional[TextIO]) -> None:
        self.error: Optional[WriteError] = None
        self.on_error: Callable[[], object] = lambda: None
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._last: Optional[concurrent.futures.Future[None]] = None
        self._written = 0  # bytes
        self._queued = self._taken = 0  # characters
        self._descriptor = -1
        try:
            if stream is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._descriptor = stream.fileno()
        except OSError as error:
            self.error = WriteError(error)

    def is_same(self, stream: Optional[TextIO]) -> bool:
        """Whether the stream goes to the same file."""
        if stream is None or self._descriptor < 0:
            return False
        return os.path.sameopenfile(self._descriptor, stream.fileno())

    @property
    def is_idle(self) -> bool:
        """Whether everything is written, or nothing more can be."""
        return not self._last or self._last.done() or self.error is not None

    @property
    def backlog(self) -> int:
        """How many characters wait to be written."""
        return self._queued - self._taken

    def check(self) -> None:
        """
        :raises WriteError: when nothing more can be written
        """
        if self.error:
            raise self.error

    def put(self, text: str, encode: Callable[[str], bytes]) -> None:
        """Queue a text for writing.

        :param encode: called in the thread, with a piece at a time
        :raises WriteError: when nothing more can be written
        """
        self.check()
        if not text:
            return
        try:
            self._last = self._thread.submit(self._write, text, encode)
        except RuntimeError:
            reason = "no thread can be started"
            raise WriteError(OSError(errno.EAGAIN, reason)) from None
        self._queued += len(text)

    def wait(self, seconds: float) -> None:
        """Block until everything is written, at most for this long."""
        if self._last:
            concurrent.futures.wait([self._last], seconds)

    async def drain(self, patience: float, limit: float = math.inf) -> bool:
        """Wait until everything is written.

        :param patience: maximum seconds without progress
        :param limit: maximum seconds in all
        :returns: False if time is up
        :raises WriteError: when it cannot be written
        """
        pause = _SHORTEST
        seen, since = (-1, -1), 0.0
        # Count only time slept: when a whole pipeline is stopped and
        # continued, its reader was not slow.
        while not self.is_idle:
            await asyncio.sleep(pause)
            since += pause
            limit -= pause
            pause = min(2 * pause, _LONGEST)
            now = self._written, self._unread()
            if now != seen:
                seen, since = now, 0.0
            if since >= patience or limit <= 0:
                return False
        self.check()
        return True

    def _unread(self) -> int:
        """Return how many bytes a pipe holds.

        Some readers take one byte at a time, but a pipe makes room only by
        whole pages.
        """
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._descriptor, termios.FIONREAD, count)
        except OSError:
            pass  # not known for this kind of file
        return count[0]

    def _write(self, text: str, encode: Callable[[str], bytes]) -> None:
        self._taken += len(text)
        if self.error:
            return
        try:
            for begin in range(0, len(text), _PIECE):
                rest = encode(text[begin : begin + _PIECE])
                while rest:
                    try:
                        count = os.write(self._descriptor, rest)
                    except BlockingIOError:
                        # Another process has set O_NONBLOCK.
                        select.select([], [self._descriptor], [])
                    else:
                        rest = rest[count:]
                        self._written += count
        except OSError as error:
            self.error = WriteError(error)
            self.on_error()
