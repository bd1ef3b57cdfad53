"""A server that pretends to be Redis, until its script says otherwise."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import BinaryIO, Callable, Dict, List, Mapping, Optional

# Does something to a connection; whether the connection goes on.
Act = Callable[["Hostile", socket.socket], bool]

MEGABYTE = b"x" * (1 << 20)


def say(reply: bytes) -> Act:
    def act(server: Hostile, sock: socket.socket) -> bool:
        server.played += 1
        sock.sendall(reply)
        return True

    return act


def close(server: Hostile, sock: socket.socket) -> bool:
    server.played += 1
    return False


def silent(server: Hostile, sock: socket.socket) -> bool:
    server.played += 1
    server.is_over.wait()
    return False


def drip(reply: bytes, every: float = 0.05) -> Act:
    """Send byte after byte, again and again."""

    def act(server: Hostile, sock: socket.socket) -> bool:
        server.played += 1
        while True:
            for byte in reply:
                sock.sendall(bytes([byte]))
                if server.is_over.wait(every):
                    return False

    return act


def endless(begin: bytes, megabytes: int) -> Act:
    """Begin a reply that does not end; then stay silent."""

    def act(server: Hostile, sock: socket.socket) -> bool:
        try:
            sock.sendall(begin)
            for _ in range(megabytes):
                sock.sendall(MEGABYTE)
        finally:
            server.played += 1
        server.is_over.wait()
        return False

    return act


class Hostile:
    """
    :param script: what to do at a command, by its name; ``""`` is a new
        connection, ``"*"`` any command
    :param path: of a unix socket, instead of a port
    :ivar played: how often the script has had its turn, and sent all of it
    :ivar commands: the first words of what came
    """

    def __init__(
        self, script: Mapping[str, Act], path: Optional[Path] = None
    ) -> None:
        self.script = script
        self.played = 0
        self.commands: List[bytes] = []
        self.is_over = threading.Event()
        self._sockets: List[socket.socket] = []
        self._threads: List[threading.Thread] = []
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def stop(self) -> None:
        self.is_over.set()
        self._shut(self._listener)
        for sock in self._sockets:
            self._shut(sock)
        for thread in self._threads:
            thread.join()

    def push(self, reply: bytes) -> None:
        """Send any bytes on all connections."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.sendall(reply)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _shut(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        state: Dict[str, bool] = {}
        with contextlib.suppress(OSError, ValueError):
            with sock.makefile("rb") as stream:
                goes_on = self._play(sock, "", b"")
                while goes_on:
                    words = _words(stream)
                    self.commands.append(words[0])
                    name = words[0].decode(errors="replace").upper()
                    usual = _usual(name, words, state)
                    goes_on = self._play(sock, name, usual)
        self._shut(sock)

    def _play(self, sock: socket.socket, name: str, usual: bytes) -> bool:
        act = self.script.get(name) or (self.script.get("*") if name else None)
        if act is None:
            sock.sendall(usual)
            return True
        return act(self, sock)


def array(*items: bytes) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(map(bulk, items))


def bulk(item: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(item), item)


def _words(stream: BinaryIO) -> List[bytes]:
    """Read a command.

    :raises ValueError: at the end, or when it is none
    """
    words = []
    for _ in range(int(stream.readline()[1:])):
        size = int(stream.readline()[1:])
        words.append(stream.read(size + 2)[:-2])
    return words


def _usual(name: str, words: List[bytes], state: Dict[str, bool]) -> bytes:
    """Return what Redis would say."""
    if name == "HELLO":
        return array(b"mode", b"standalone", b"role", b"master")
    if name == "SUBSCRIBE":
        state["subscribed"] = True
        return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (
            len(words[1]),
            words[1],
        )
    if name == "PING":
        return array(b"pong", b"") if state else b"+PONG\r\n"
    if name in ("EVALSHA", "EVAL", "INFO"):
        return b"$0\r\n\r\n"
    return b":1\r\n" if name == "PUBLISH" else b"+OK\r\n"
