"""A server in this process that speaks as much of Redis as a test needs.

Unlike a fake of the library it is at the other end of a real socket: the
connections of redis-py are under test too, and it can refuse, stall and hang
up.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

Words = List[bytes]


class Server:
    """Listens on a unix socket between start() and stop().

    :ivar published: channel and message of each PUBLISH
    :ivar commands: all that came, of all connections
    :ivar replies: what a command is answered instead, by its name
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "redis.sock"
        self.published: List[Tuple[str, bytes]] = []
        self.commands: List[Words] = []
        self.replies: Dict[str, bytes] = {}
        self.on_publish: Optional[Callable[[bytes], None]] = None
        self.stalled = False
        self._pending: List[Tuple[asyncio.StreamWriter, Words]] = []
        self._clients: Dict[asyncio.StreamWriter, Set[bytes]] = {}
        self._deaf: Set[asyncio.StreamWriter] = set()
        self._server: Optional[asyncio.AbstractServer] = None

    @property
    def options(self) -> Dict[str, Any]:
        return {"unix_socket": str(self.path)}

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def subscribed(self) -> Set[str]:
        return {
            channel.decode()
            for channels in self._clients.values()
            for channel in channels
        }

    def names(self) -> List[str]:
        """The commands' names."""
        return [words[0].decode().upper() for words in self.commands]

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._serve, str(self.path)
        )

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        self.hang_up()
        while self._clients:
            await asyncio.sleep(0.005)

    def hang_up(self) -> None:
        """End all connections, as a crash would."""
        for writer in self._clients:
            writer.transport.abort()

    def stall_these(self) -> None:
        """Answer none of the present connections; others are answered."""
        self._deaf = set(self._clients)

    def resume(self) -> None:
        """Go on where it stalled."""
        self.stalled = False
        self._deaf.clear()
        for writer, words in self._pending:
            if writer in self._clients:
                self._answer(writer, words)
        self._pending.clear()

    def push(self, channel: str, message: bytes) -> None:
        """Deliver a message to whoever is subscribed."""
        self.write_to(channel, _array(b"message", channel.encode(), message))

    def write_to(self, channel: str, reply: bytes) -> None:
        """Write anything to whoever is subscribed."""
        for writer, channels in self._clients.items():
            if channel.encode() in channels:
                writer.write(reply)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._clients[writer] = set()
        try:
            while True:
                words = await _words(reader)
                self.commands.append(words)
                if self.stalled or writer in self._deaf:
                    self._pending.append((writer, words))
                else:
                    self._answer(writer, words)
        except (asyncio.IncompleteReadError, OSError, ValueError):
            pass  # it went
        finally:
            del self._clients[writer]
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, words: Words) -> None:
        name = words[0].decode().upper()
        channels = self._clients[writer]
        if name in self.replies:
            writer.write(self.replies[name])
        elif name in ("SUBSCRIBE", "UNSUBSCRIBE"):
            for channel in words[1:]:
                (channels.add if name[0] == "S" else channels.discard)(channel)
                writer.write(_array(name.lower().encode(), channel, 1))
        elif name == "PUBLISH":
            self.published.append((words[1].decode(), words[2]))
            writer.write(b":1\r\n")
            if self.on_publish:
                self.on_publish(words[2])
        elif name == "PING":
            pong = _array(b"pong", b"") if channels else b"+PONG\r\n"
            writer.write(pong)
        elif name == "ROLE":
            writer.write(_array(b"master", 0))
        else:
            writer.write(b"+OK\r\n")


async def _words(reader: asyncio.StreamReader) -> Words:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


def _array(*items: Any) -> bytes:
    parts = [b"*%d\r\n" % len(items)]
    for item in items:
        if isinstance(item, int):
            parts.append(b":%d\r\n" % item)
        else:
            parts.append(b"$%d\r\n%b\r\n" % (len(item), item))
    return b"".join(parts)
