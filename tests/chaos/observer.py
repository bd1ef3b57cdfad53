"""An observer: records what is published, over its own connection."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
import zlib
from typing import Any, BinaryIO, Dict, List, NamedTuple, Optional

from tests.parts import WITHIN, wait_for

_AGAIN = 0.01  # seconds between attempts to connect


class Heard(NamedTuple):
    """A message, without its data.

    :ivar at: unix time
    :ivar ref: the request's uuid
    :ivar size: characters of the data
    :ivar checksum: of the data of this chunk and all before it
    """

    at: float
    ref: str
    src: str
    status: str
    response: str
    chunk: int
    chunks: int
    reason: str
    size: int
    checksum: int


class Observer:
    """Subscribes, again whenever the server is back, and records all messages.

    :param command: how it subscribes, such as ``PSUBSCRIBE chaos-*``
    :ivar sessions: how often it has subscribed
    :ivar heard: in the order of arrival
    :ivar strange: messages that are not responses
    """

    def __init__(self, port: int, *command: str) -> None:
        self._port = port
        self._command = " ".join(command).encode() + b"\r\n"
        self.sessions = 0
        self.heard: List[Heard] = []
        self.strange: List[str] = []
        self._raw: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._begun: Dict[str, int] = {}
        self._socket: Optional[socket.socket] = None
        self._is_stopped = False
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._listen, self._parse)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for_session(self, number: int) -> None:
        """Wait until it has subscribed this many times."""
        wait_for(lambda: self.sessions >= number)

    def stop(self) -> None:
        self._is_stopped = True
        if self._socket:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed
        self._raw.put(None)
        for thread in self._threads:
            thread.join(WITHIN)

    def _listen(self) -> None:
        while not self._is_stopped:
            try:
                with socket.create_connection(
                    ("127.0.0.1", self._port), 1
                ) as sock:
                    sock.settimeout(None)
                    self._socket = sock
                    sock.sendall(self._command)
                    with sock.makefile("rb") as file:
                        self._read(file)
            except (OSError, EOFError):
                pass
            time.sleep(_AGAIN)

    def _read(self, file: BinaryIO) -> None:
        while True:
            message = _read_value(file)
            if message[0] in (b"subscribe", b"psubscribe"):
                self.sessions += 1
            else:
                self._raw.put((time.time(), message[-1]))

    def _parse(self) -> None:
        while True:
            item = self._raw.get()
            if item is None:
                return
            at, body = item
            try:
                self.heard.append(self._heard(at, json.loads(body)))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.strange.append(repr(body[:300]))

    def _heard(self, at: float, message: Dict[str, Any]) -> Heard:
        response, chunk = message["uuid"], message["chunk"]
        data = message["data"] or ""
        checksum = zlib.crc32(data.encode(), self._begun.pop(response, 0))
        if chunk < message["chunks"]:
            self._begun[response] = checksum
        return Heard(
            at,
            message["ref"],
            message["src"],
            message["status"],
            response,
            chunk,
            message["chunks"],
            message["reason"],
            len(data),
            checksum,
        )


def _read_value(file: BinaryIO) -> Any:
    """Read a value in the protocol of Redis."""
    head = file.readline()
    if not head.endswith(b"\r\n"):
        raise EOFError
    kind, rest = head[:1], head[1:-2]
    if kind == b"*":
        return [_read_value(file) for _ in range(int(rest))]
    if kind == b"$":
        value = file.read(int(rest) + 2)
        if len(value) < int(rest) + 2:
            raise EOFError
        return value[:-2]
    if kind == b"-":
        raise OSError(rest.decode())
    return rest
