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
from typing import Callable, Dict, Tuple, Union

_KEEP = 1 << 23  # bytes that may wait to be written
# Bytes of a message.  A queue of 512, which is what systemd sets, has to fit
# into the send buffer of libsystemd's socket, see JournalWriter.
_LONGEST = 16384
_CONNECT_EVERY = 1000  # milliseconds
_JOURNAL = "/run/systemd/journal/socket"
_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
}


# What is written of a record, in one piece or in several.
_Pieces = Tuple[bytes, ...]


class LogWriter(logging.Handler, ABC):
    """Writes records without ever blocking.

    :param tell_lost: called once records can be written again after some
        could not, with their number; it logs that
    """

    def __init__(self, tell_lost: Callable[[int], None]) -> None:
        super().__init__()
        self._tell_lost = tell_lost
        self._waiting: SimpleQueue[Union[_Pieces, threading.Event]] = (
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
    def render(self, record: logging.LogRecord) -> _Pieces:
        """What is to be written of a record."""

    @abstractmethod
    def write(self, what: _Pieces) -> None:
        """Write, however long it takes."""

    def write_at_once(self, what: _Pieces) -> None:
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

    def _leave(self, what: _Pieces) -> None:
        """Leave it to the thread."""
        size = sum(map(len, what))
        if self._left - self._written + size > _KEEP:
            raise BlockingIOError
        if not self._thread.ident:
            self._thread.start()
        self._left += size
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
            self._written += sum(map(len, what))

    def drain(self, within: float) -> None:
        """Wait until all is written, but so many seconds at most."""
        if self._thread.ident:
            written = threading.Event()
            self._waiting.put(written)
            written.wait(within)


class ErrorWriter(LogWriter):
    """Writes lines to standard error."""

    def render(self, record: logging.LogRecord) -> _Pieces:
        line = f"{self.format(record)}\n"
        return (line.encode(errors="backslashreplace"),)

    def write(self, what: _Pieces) -> None:
        write_all(2, b"".join(what))


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
    systemd.journal-fields(7).

    ``systemd.journal.sendv`` stops the whole interpreter, whichever thread
    calls it, until the journal has room.  So a socket of our own first shows
    whether there is room.  It cannot show everything: between poll() and the
    send another program may take the last place in the journal's queue; and
    without CAP_NET_ADMIN the send buffer of libsystemd's socket is small, and
    may be full before the queue is.  If the journal hangs at that moment, so
    does the agent, and the watchdog ends it.

    :param identifier: what the journal calls the program
    :param send: ``systemd.journal.sendv``
    :param socket_path: where that sends to
    """

    def __init__(
        self,
        tell_lost: Callable[[int], None],
        identifier: str,
        send: Callable[..., None],
        socket_path: str = _JOURNAL,
    ) -> None:
        super().__init__(tell_lost)
        self._identifier = identifier
        self._send = send
        self._path = socket_path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def render(self, record: logging.LogRecord) -> _Pieces:
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
        return (
            b"MESSAGE=" + message[:_LONGEST],
            *(
                f"{name}={value}".encode(errors="backslashreplace")
                for name, value in fields.items()
            ),
        )

    def write(self, what: _Pieces) -> None:
        while not self._is_writable(_CONNECT_EVERY):
            pass
        self._send(*what)

    def write_at_once(self, what: _Pieces) -> None:
        if not self._is_writable(0):
            raise BlockingIOError
        self._send(*what)

    def _is_writable(self, within: int) -> bool:
        """Whether the journal takes a record, within so many milliseconds.

        :raises OSError: when there is no journal
        """
        # Each time: the journal may have another socket by now, and poll()
        # says nothing of that.
        self._socket.connect(self._path)
        return bool(self._poll.poll(within))

    def close(self) -> None:
        self._socket.close()
        super().close()
