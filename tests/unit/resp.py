"""A server in this process that speaks as much of Redis as a test needs.

Unlike a fake of the library it is at the other end of a real socket: the
connections of redis-py are under test too, and it can refuse, stall and hang
up.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

Words = List[bytes]
# The channels of receipts, which are no answers, begin with this.
_RECEIPTS = b"ngcp-task-agent-receipts-"


class Server:
    """Listens on a unix socket between start() and stop().

    :ivar published: channel and message of each PUBLISH, without receipts
    :ivar commands: all that came, of all connections
    :ivar replies: what a command is answered instead, by its name
    :ivar forbidden: channels where nobody may publish
    :ivar is_mute: subscribers get nothing
    :ivar is_full: no memory is left for transactions
    :ivar stalled_command: it is not answered, as all are not when stalled
    :ivar run_id: the name of this run
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "redis.sock"
        self.published: List[Tuple[str, bytes]] = []
        self.commands: List[Words] = []
        self.replies: Dict[str, bytes] = {}
        self.forbidden: Set[bytes] = set()
        self.is_full = False
        self.is_mute = False
        self.stalled_command = b""
        self.run_id = b"run1"
        self.stalled = False
        self._pending: List[Tuple[asyncio.StreamWriter, Words]] = []
        self._clients: Dict[asyncio.StreamWriter, Set[bytes]] = {}
        self._deaf: Set[asyncio.StreamWriter] = set()
        self._ids = itertools.count(1)
        self._by_id: Dict[int, asyncio.StreamWriter] = {}
        self._queues: Dict[asyncio.StreamWriter, List[Words]] = {}
        self._hang_up_at: Optional[Tuple[str, bool]] = None
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
            if not channel.startswith(_RECEIPTS)
        }

    def names(self) -> List[str]:
        """The commands' names."""
        return [words[0].decode().upper() for words in self.commands]

    def has_got(self, *words: str) -> bool:
        """Whether a command that begins so has come."""
        return self.count(*words) > 0

    def count(self, *words: str) -> int:
        """How many commands that begin so have come."""
        begin = [word.encode() for word in words]
        return sum(came[: len(begin)] == begin for came in self.commands)

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

    def hang_up_at(self, name: str, is_carried_out: bool) -> None:
        """End the connection on which this command comes next.

        :param is_carried_out: it is, though nobody hears so
        """
        self._hang_up_at = name, is_carried_out

    @property
    def is_to_hang_up(self) -> bool:
        """Whether that command has not come yet."""
        return self._hang_up_at is not None

    def stall_these(self) -> None:
        """Answer none of the present connections; others are answered."""
        self._deaf = set(self._clients)

    def resume(self) -> None:
        """Go on where it stalled."""
        self.stalled = False
        self.stalled_command = b""
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
            if channel.encode() in channels and not self.is_mute:
                writer.write(reply)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._clients[writer] = set()
        self._by_id[next(self._ids)] = writer
        try:
            while not writer.transport.is_closing():
                words = await _words(reader)
                self.commands.append(words)
                is_stalled = self.stalled or words[0] == self.stalled_command
                if is_stalled or writer in self._deaf:
                    self._pending.append((writer, words))
                else:
                    self._answer(writer, words)
        except (asyncio.IncompleteReadError, OSError, ValueError):
            pass  # it went
        finally:
            del self._clients[writer]
            self._queues.pop(writer, None)
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, words: Words) -> None:
        name = words[0].decode().upper()
        hangs_up, is_carried_out = self._hang_up_at or ("", True)
        if name == hangs_up:
            self._hang_up_at = None
        if is_carried_out or name != hangs_up:
            reply = self._reply(writer, name, words)
            if name != hangs_up:
                writer.write(reply)
                return
        writer.transport.abort()

    def _reply(
        self, writer: asyncio.StreamWriter, name: str, words: Words
    ) -> bytes:
        """Carry a command out, in its transaction if there is one."""
        queue = self._queues.get(writer)
        refusal = self._refusal(name, words)
        if queue is not None and self.is_full and name != "EXEC":
            refusal = b"-OOM command not allowed\r\n"
        if refusal:
            if queue is not None:
                queue.append([])
            return refusal
        if name == "MULTI":
            self._queues[writer] = []
            return b"+OK\r\n"
        if name == "EXEC":
            if queue is None:
                return b"-ERR EXEC without MULTI\r\n"
            del self._queues[writer]
            if [] in queue:
                return b"-EXECABORT Transaction discarded\r\n"
            replies = [self._carry_out(writer, queued) for queued in queue]
            return b"*%d\r\n%b" % (len(replies), b"".join(replies))
        if queue is not None:
            queue.append(words)
            return b"+QUEUED\r\n"
        return self._carry_out(writer, words)

    def _refusal(self, name: str, words: Words) -> bytes:
        if name == "PUBLISH" and words[1] in self.forbidden:
            return b"-NOPERM No permissions to access a channel\r\n"
        return self.replies.get(name, b"")

    def _carry_out(self, writer: asyncio.StreamWriter, words: Words) -> bytes:
        name = words[0].decode().upper()
        channels = self._clients.get(writer, set())
        if name in ("SUBSCRIBE", "UNSUBSCRIBE"):
            change = channels.add if name[0] == "S" else channels.discard
            for channel in words[1:]:
                change(channel)
            kind = name.lower().encode()
            return b"".join(_array(kind, c, 1) for c in words[1:])
        if name == "PUBLISH":
            self._publish(words[1], words[2])
            return b":1\r\n"
        if name == "PING":
            return _array(b"pong", b"") if channels else b"+PONG\r\n"
        if name == "ROLE":
            return _array(b"master", 0)
        if name == "INFO":
            return _bulk(b"# Server\r\nrun_id:%b\r\n" % self.run_id)
        if words[:2] == [b"CLIENT", b"ID"]:
            ids = [n for n, other in self._by_id.items() if other is writer]
            return b":%d\r\n" % ids[0]
        if words[:2] == [b"CLIENT", b"KILL"]:
            return b":%d\r\n" % self._kill(int(words[3]), writer)
        return b"+OK\r\n"

    def _publish(self, channel: bytes, message: bytes) -> None:
        if not channel.startswith(_RECEIPTS):
            self.published.append((channel.decode(), message))
        self.push(channel.decode(), message)

    def _kill(self, number: int, by: asyncio.StreamWriter) -> int:
        """End a connection, and forget what is stalled of it."""
        writer = self._by_id.get(number)
        if writer is None or writer is by or writer not in self._clients:
            return 0
        self._pending = [(w, ws) for w, ws in self._pending if w is not writer]
        writer.transport.abort()
        return 1


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
            parts.append(_bulk(item))
    return b"".join(parts)


def _bulk(item: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(item), item)
