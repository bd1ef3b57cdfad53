"""Where log records go; whoever logs never waits.

A journal that hangs, or a pipe that nobody reads, must not hold up the event
loop.  What cannot be written at once is left to a thread, which keeps the
order; when that falls too far behind, records are lost, and counted.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from abc import ABC, abstractmethod
from queue import SimpleQueue
from typing import Callable, Dict, Union

_KEEP = 1 << 23  # bytes that may wait to be written
_LONGEST = 65536  # bytes of a message; a datagram can hold three times that
_JOURNAL = "/run/systemd/journal/socket"
_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
}


class LogWriter(logging.Handler, ABC):
    """Writes records without ever blocking.

    :param tell_lost: called once records can be written again after some
        could not, with their number; it logs that
    """

    def __init__(self, tell_lost: Callable[[int], None]) -> None:
        super().__init__()
        self._tell_lost = tell_lost
        self._waiting: SimpleQueue[Union[bytes, threading.Event]] = (
            SimpleQueue()
        )
        self._thread = threading.Thread(
            target=self._write_waiting, name="log", daemon=True
        )
        self._works = True  # the last write has
        # Each is counted in one place alone, so that no lock is needed.
        self._left, self._written = 0, 0  # bytes, by the thread
        self._lost, self._failed, self._told = 0, 0, 0  # records

    @abstractmethod
    def render(self, record: logging.LogRecord) -> bytes:
        """What is to be written of a record."""

    @abstractmethod
    def write(self, what: bytes) -> None:
        """Write, however long it takes."""

    def write_at_once(self, what: bytes) -> None:
        """Write; raise BlockingIOError where that takes time."""
        raise BlockingIOError

    def emit(self, record: logging.LogRecord) -> None:
        is_idle = self._left == self._written
        lost = self._lost + self._failed
        if is_idle and self._works and lost > self._told:
            count, self._told = lost - self._told, lost
            self._tell_lost(count)
            is_idle = self._left == self._written
        try:
            what = self.render(record)
            if is_idle:
                try:
                    self.write_at_once(what)
                    self._works = True
                    return
                except BlockingIOError:
                    pass
            self._leave(what)
        except Exception as error:
            # There is nowhere to tell of it now.
            self._works = isinstance(error, BlockingIOError)
            self._lost += 1

    def _leave(self, what: bytes) -> None:
        """Leave it to the thread."""
        if self._left - self._written + len(what) > _KEEP:
            raise BlockingIOError
        if not self._thread.ident:
            self._thread.start()
        self._left += len(what)
        self._waiting.put(what)

    def _write_waiting(self) -> None:
        while True:
            what = self._waiting.get()
            if isinstance(what, threading.Event):
                what.set()
                continue
            try:
                self.write(what)
                self._works = True
            except Exception:
                self._works = False
                self._failed += 1
            self._written += len(what)

    def drain(self, within: float) -> None:
        """Wait until all is written, but so many seconds at most."""
        if self._thread.ident:
            written = threading.Event()
            self._waiting.put(written)
            written.wait(within)


class ErrorWriter(LogWriter):
    """Writes lines to standard error."""

    def render(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def write(self, what: bytes) -> None:
        write_all(2, what)


def write_all(fd: int, what: bytes) -> None:
    """Write to a standard stream, however long it takes.

    :raises OSError: when it cannot be written
    """
    while what:
        try:
            what = what[os.write(fd, what) :]
        except BlockingIOError:
            # It is shared with whoever has made it so.
            select.select([], [fd], [])


class JournalWriter(LogWriter):
    """Writes records with fields to the journal.

    Those of a record in upper case, and where it comes from, see
    systemd.journal-fields(7) and "Native Journal Protocol" of systemd.
    Not with python3-systemd, which keeps the whole interpreter waiting for a
    journal that hangs, whichever thread has called it.

    :param identifier: what the journal calls the program
    """

    def __init__(
        self,
        tell_lost: Callable[[int], None],
        identifier: str,
        socket_path: str = _JOURNAL,
    ) -> None:
        super().__init__(tell_lost)
        self._identifier = identifier
        self._path = socket_path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def render(self, record: logging.LogRecord) -> bytes:
        message = self.format(record).encode(errors="backslashreplace")
        fields: Dict[str, object] = {
            "PRIORITY": _PRIORITIES.get(record.levelno, 7),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
        }
        for name, value in vars(record).items():
            if name.isupper():
                fields[name] = value
        return _field("MESSAGE", message[:_LONGEST]) + b"".join(
            _field(name, str(value).encode(errors="backslashreplace"))
            for name, value in fields.items()
        )

    def write(self, what: bytes) -> None:
        self._socket.sendto(what, self._path)

    def write_at_once(self, what: bytes) -> None:
        self._socket.sendto(what, socket.MSG_DONTWAIT, self._path)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        length = len(value).to_bytes(8, "little")
        return b"%s\n%s%s\n" % (name.encode(), length, value)
    return b"%s=%s\n" % (name.encode(), value)
