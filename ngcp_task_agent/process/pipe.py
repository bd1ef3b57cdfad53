"""Pipe: gathers what a command writes."""

from __future__ import annotations

import asyncio
import os
from typing import Callable, Optional

_READ = 65536  # bytes, a pipe's usual size


class Pipe:
    """A pipe: gathers what is written to it, up to a limit.

    Past the limit it keeps reading, so that the writer does not block.

    :param limit: bytes to accept
    :param kept: how many of the last bytes to keep; None for all
    :param on_data: see ``Command.on_stdout``
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        kept: Optional[int],
        on_full: Callable[[], None],
        on_data: Optional[Callable[[bytes], None]] = None,
    ) -> None:
        self.data = bytearray()
        self.is_full = False
        self._is_open = False
        self._loop = loop
        self._left, self._kept = limit, kept
        self._on_full = on_full
        self._on_data = on_data
        self._is_watched = False

    def open(self) -> int:
        """Open it; return the command's end, which the caller closes."""
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        self._is_open = True
        os.set_blocking(self._reader, False)
        return writer

    def watch(self) -> None:
        """Read whenever there is something.

        :raises OSError: when it cannot be watched
        """
        if self._is_open:
            self._loop.add_reader(self._reader, self._read)
            self._is_watched = True

    def read_all(self) -> bool:
        """Read what is there, up to the limit; return whether it is closed."""
        while self._is_open and not self.is_full and self._read():
            pass
        return not self._is_open

    def _read(self) -> bool:
        """Read once; return whether there was anything."""
        try:
            data = os.read(self._reader, _READ)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        if len(data) > self._left:
            data = data[: self._left]
            self.is_full = True
            self._on_full()
        self._left -= len(data)
        self.data += data
        if self._on_data and data:
            self._on_data(data)
        if self._kept:
            del self.data[: -self._kept]
        return True

    def close(self) -> None:
        """Close the reading end."""
        if self._is_open:
            self._is_open = False
            if self._is_watched:
                self._loop.remove_reader(self._reader)
            os.close(self._reader)
            if self._on_data:
                self._on_data(b"")
