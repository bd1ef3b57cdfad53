"""Handlers that write log records and never block the event loop.

Records are queued, and written in the next round of the event loop: after the
answers that they are about, and several in a row, as each wakes the journal.
Where there is no loop, they are written at once.  If writing would block, a
thread does it, which exists only while records wait.  When the queue is full,
records are lost, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Callable, Deque, Mapping, Optional, Sequence

from ngcp_task_agent.logs.bound import Bounds
from ngcp_task_agent.logs.lines import OneLine

_RETRY = 1.0  # seconds between attempts to write
_CONNECT_EVERY = 0.1  # seconds between looks for a new socket of the journal
_JOURNAL = "/run/systemd/journal/socket"
_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
}

# What is written for a record: one line, or its fields.
Parts = Sequence[bytes]


class LogWriter(logging.Handler, ABC):
    """Writes records without blocking.

    :param report_lost: logs the number of lost records; called once writing
        works again
    :cvar max_queued: bytes that may wait to be written
    :ivar bounds: of the records that strangers can cause
    """

    max_queued = 1 << 23
    bounds: Bounds

    def __init__(self, report_lost: Callable[[int], None]) -> None:
        super().__init__()
        self.setFormatter(OneLine())
        self._report_lost = report_lost
        assert self.lock
        # Guards all attributes below.
        self._guard = self.lock
        self._queue: Deque[Parts] = deque()
        self._queued = 0  # bytes
        self._will_flush = False
        self._thread: Optional[threading.Thread] = None
        self._lost = 0

    @abstractmethod
    def render(self, record: logging.LogRecord) -> Parts:
        """Return what to write for a record."""

    @abstractmethod
    def write(self, parts: Parts, wait: float) -> bool:
        """Write, if that is possible within ``wait`` seconds.

        Never blocks if ``wait`` is 0.  Otherwise it may take longer, but must
        start in time.

        :returns: whether it has written
        :raises OSError: when it can be written neither now nor later
        """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.put(self.render(record))
        except Exception:
            # There is no way to report it now.
            self._lost += 1

    def put(self, parts: Parts) -> None:
        """Queue a record's parts, to be written soon."""
        size = sum(map(len, parts))
        with self._guard:
            if self._queued + size > self.max_queued:
                self._lost += 1
                return
            self._queue.append(parts)
            self._queued += size
            if self._will_flush or self._thread:
                return
            try:
                asyncio.get_running_loop().call_soon(self.flush)
                self._will_flush = True
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        """Write what is queued, or have a thread do it."""
        with self._guard:
            self._will_flush = False
            while self._queue and not self._thread:
                try:
                    if not self.write(self._queue[0], 0):
                        self._start_thread()
                        return
                except Exception:
                    self._take()
                    self._lost += 1
                else:
                    self._take()
                    self._report()

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._write_queue, name="log", daemon=True
        )
        thread.start()
        self._thread = thread

    def _write_queue(self) -> None:
        while True:
            with self._guard:
                if not self._queue:
                    self._thread = None
                    return
                parts = self._queue[0]
            lost = False
            try:
                while not self.write(parts, _RETRY):
                    pass
            except Exception:
                lost = True
            with self._guard:
                self._take()
                if lost:
                    self._lost += 1
                else:
                    self._report()

    def _take(self) -> None:
        self._queued -= sum(map(len, self._queue.popleft()))

    def _report(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            self._report_lost(lost)

    def drain(self, within: float) -> None:
        """Wait until all records are written, at most ``within`` seconds."""
        self.flush()
        thread = self._thread
        if thread:
            thread.join(within)


class ErrorWriter(LogWriter):
    """Writes lines to standard error; those of tracebacks are indented.

    poll() shows that a pipe or a file has room for PIPE_BUF bytes.  It does
    not show how much room a terminal has, so a thread writes to terminals.
    """

    def __init__(self, report_lost: Callable[[int], None]) -> None:
        super().__init__(report_lost)
        self._at_once = 0 if os.isatty(2) else select.PIPE_BUF
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)

    def render(self, record: logging.LogRecord) -> Parts:
        return (self.format(record).replace("\n", "\n    ").encode() + b"\n",)

    def write(self, parts: Parts, wait: float) -> bool:
        (line,) = parts
        if not wait and len(line) > self._at_once:
            return False
        if not self._poll.poll(wait * 1000):
            return False
        write_all(2, line)
        return True


def write_all(fd: int, data: bytes) -> None:
    """Write to a standard stream, however long it takes.

    :raises OSError: when it cannot be written
    """
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            # Another process that shares it has made it non-blocking.
            select.select([], [fd], [])


class JournalWriter(LogWriter):
    """Writes records with fields to the journal.

    The fields are the record's upper-case attributes.

    ``systemd.journal.sendv`` blocks the whole interpreter, from any thread,
    until the journal has room.  So this class first polls a second socket for
    room.  Three gaps remain: between poll() and the send, another program may
    take the last place in the journal's queue; for a tenth of a second, poll()
    may ask a socket that the journal has replaced; and without CAP_NET_ADMIN,
    the send buffer of libsystemd's socket is small, and may fill up before the
    queue does.  If the journal hangs at that moment, so does the agent, and
    the watchdog kills it.

    :param identifier: the program's name in the journal
    :param send: ``systemd.journal.sendv``
    :param socket_path: the socket that ``send`` writes to
    """

    def __init__(
        self,
        report_lost: Callable[[int], None],
        identifier: str,
        send: Callable[..., None],
        socket_path: str = _JOURNAL,
    ) -> None:
        super().__init__(report_lost)
        self._identifier = identifier
        self._send = send
        self._path = socket_path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._connect_at = 0.0  # monotonic time
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLOUT)

    def render(self, record: logging.LogRecord) -> Parts:
        message, _, traceback = self.format(record).partition("\n")
        fields = {n: v for n, v in vars(record).items() if n.isupper()}
        if traceback:
            fields["NGCP_TRACEBACK"] = traceback
        return self.parts(record.levelno, record.name, message, fields)

    def parts(
        self, level: int, logger: str, line: str, fields: Mapping[str, object]
    ) -> Parts:
        """Return what to write for a record that logging did not make."""
        priority = _PRIORITIES.get(level, 7)
        all_fields = {
            "MESSAGE": line,
            "PRIORITY": priority,
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": logger,
            **fields,
        }
        return [
            f"{name}={value}".encode(errors="backslashreplace")
            for name, value in all_fields.items()
        ]

    def write(self, parts: Parts, wait: float) -> bool:
        # poll() does not show that the journal has a new socket.
        now = time.monotonic()
        if now >= self._connect_at:
            self._socket.connect(self._path)
            self._connect_at = now + _CONNECT_EVERY
        if not self._poll.poll(wait * 1000):
            return False
        self._send(*parts)
        return True

    def close(self) -> None:
        self._socket.close()
        super().close()
