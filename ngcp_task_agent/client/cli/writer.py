"""Writer: writes to standard output or error in a thread of its own.

A reader can be slow, or stop: a pipe is then full, a terminal is held by
Ctrl-S.  That must keep nobody from the answers, of which Redis holds only so
many, from the clock and from Ctrl-C.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import select
import termios
import threading
from queue import SimpleQueue
from typing import Callable, Optional, TextIO, Tuple

Encode = Callable[[str], bytes]

_PIECE = 4096  # characters
_SHORTEST, _LONGEST = 0.001, 0.1  # seconds between two looks


class Writer:
    """Takes text at once, and writes it as fast as it is read.

    :param stream: whose descriptor to write to; None if it is closed
    :ivar error: why nothing can be written any more
    :ivar on_error: called then, in the thread
    """

    def __init__(self, stream: Optional[TextIO]) -> None:
        self.error: Optional[OSError] = None
        self.on_error: Callable[[], None] = lambda: None
        self._queue: SimpleQueue[Optional[Tuple[str, Encode]]] = SimpleQueue()
        self._given = 0  # characters; only put() changes it
        self._written = 0  # characters; only the thread changes it
        self._descriptor = -1
        # Of the daemon kind: the end of the process does not wait for it,
        # as it does for what sys.stdout holds.
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            if stream is None:
                # A socket may have its number.
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._descriptor = os.dup(stream.fileno())
        except OSError as error:
            self.error = error

    def is_same(self, stream: Optional[TextIO]) -> bool:
        """Whether what is written to that stream goes to the same place."""
        if stream is None or self._descriptor < 0:
            return False
        other = os.fstat(stream.fileno())
        return os.path.samestat(os.fstat(self._descriptor), other)

    @property
    def is_idle(self) -> bool:
        """Whether all that was put is written, or never will be."""
        return self._given == self._written or self.error is not None

    def put(self, text: str, encode: Encode) -> None:
        """Have a text written, after all that was put before.

        :param encode: makes it bytes, in pieces
        :raises OSError: when nothing can be written any more
        """
        if self.error:
            raise self.error
        if not text:
            return
        if not self._thread.ident:
            self._start()
        self._given += len(text)
        self._queue.put((text, encode))

    async def written(self, patience: float) -> bool:
        """Wait until all is written.

        False as soon as nothing has been read for ``patience`` seconds.

        :raises OSError: when it cannot be written
        """
        pause = _SHORTEST
        seen, since = (-1, -1), 0.0
        # By what it has slept, not by the clock: who stops a pipe of programs
        # and lets it go on has not kept this one waiting.
        while not self.is_idle:
            await asyncio.sleep(pause)
            since += pause
            pause = min(2 * pause, _LONGEST)
            now = self._written, self._unread()
            if now != seen:
                seen, since = now, 0.0
            elif since >= patience:
                return False
        if self.error:
            raise self.error
        return True

    def close(self, seconds: float) -> None:
        """Wait so long until all is written; nothing can be put after."""
        if self._thread.ident:
            self._queue.put(None)
            self._thread.join(seconds)
        elif self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError:
            reason = "no thread can be started"
            raise OSError(errno.EAGAIN, reason) from None

    def _unread(self) -> int:
        """How many bytes are in a pipe.

        It takes a piece only when it has room for all of it; but many read
        letter by letter.
        """
        count = array.array("i", [0])
        try:
            fcntl.ioctl(self._descriptor, termios.FIONREAD, count)
        except OSError:
            pass  # this kind of file does not tell
        return count[0]

    def _run(self) -> None:
        try:
            while True:
                item = self._queue.get()
                if item is None:
                    break
                text, encode = item
                for begin in range(0, len(text), _PIECE):
                    piece = text[begin : begin + _PIECE]
                    self._write(encode(piece))
                    self._written += len(piece)
        except OSError as error:
            self.error = error
            self.on_error()
        finally:
            os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Another process has made it so, for all that share it.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
