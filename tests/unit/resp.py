"""A server in this process that supports as much of Redis as a test needs.

Unlike fakeredis, it has a real socket: the connections of redis-py are under
test too, and it can refuse, stall and hang up.  It has one script, that of the
redis backend.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple, Union

Words = List[bytes]


class Server:
    """Listens on a socket between start() and stop().

    :param host: an address to listen on; by default it is a unix socket
    :ivar published: channel and message of everything published
    :ivar commands: all commands received, from all connections
    :ivar replies: replies that replace the usual ones, by command; a list is
        used up
    :ivar forbidden: channels where publishing is refused
    :ivar stalled: no command is answered
    :ivar stalled_command: this one is not answered
    :ivar mode: and role: what HELLO says
    :ivar tcp_port: what INFO says
    :ivar script_errors: of GET and SET inside the script, like ``replies``
    :ivar moved: how many keys belong to other nodes of the cluster
    :ivar producers: what the script stores, by key
    """

    def __init__(self, folder: Path, host: Optional[str] = None) -> None:
        self.path = folder / "redis.sock"
        self.published: List[Tuple[str, bytes]] = []
        self.commands: List[Words] = []
        self.replies: Dict[str, Union[bytes, List[bytes]]] = {}
        self.forbidden: Set[bytes] = set()
        self.stalled = False
        self.stalled_command = b""
        self.mode, self.role = b"standalone", b"master"
        self.tcp_port = 0
        self.script_errors: Dict[bytes, Union[bytes, List[bytes]]] = {}
        self.moved = 0
        self.producers: Dict[bytes, bytes] = {}
        self._host = host
        self._port = 0
        self._scripts: Set[bytes] = set()
        self._foreign: Set[bytes] = set()
        self._pending: List[Tuple[asyncio.StreamWriter, Words]] = []
        self._clients: Dict[asyncio.StreamWriter, Set[bytes]] = {}
        self._deaf: Set[asyncio.StreamWriter] = set()
        self._hang_up_at: Tuple[str, List[bool]] = "", []
        self._server: Optional[asyncio.AbstractServer] = None

    @property
    def options(self) -> Dict[str, Any]:
        if self._host:
            return {"host": self._host, "port": self._port}
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

    @property
    def messages(self) -> List[bytes]:
        """Return what was published, without the channels."""
        return [message for _, message in self.published]

    def count(self, *words: str) -> int:
        """Return how many commands that start with this have arrived."""
        begin = [word.encode() for word in words]
        return sum(came[: len(begin)] == begin for came in self.commands)

    def count_of(self, message: str) -> int:
        """Return how often a message has arrived, to be published."""
        found = 0
        for name, *words in self.commands:
            begin = {b"PUBLISH": 1, b"EVALSHA": 6, b"EVAL": 6}.get(name)
            found += bool(begin) and message.encode() in words[begin::2]
        return found

    async def start(self) -> None:
        if self._host:
            server = await asyncio.start_server(
                self._serve, self._host, self._port
            )
            self._port = server.sockets[0].getsockname()[1]
        else:
            server = await asyncio.start_unix_server(
                self._serve, str(self.path)
            )
        self._server = server

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        self.hang_up()
        while self._clients:
            await asyncio.sleep(0.005)

    def forget(self) -> None:
        """Forget all keys and scripts, as after a restart."""
        self.producers.clear()
        self._scripts.clear()

    def hang_up(self) -> None:
        """Close all connections, as a crash would."""
        for writer in self._clients:
            writer.transport.abort()

    def hang_up_at(self, name: str, *is_carried_out: bool) -> None:
        """Close the connection on which this command arrives next.

        :param is_carried_out: whether to execute it, without a reply; several
            apply to one arrival each
        """
        self._hang_up_at = name, list(is_carried_out)

    @property
    def is_to_hang_up(self) -> bool:
        """Whether that command must still arrive."""
        return bool(self._hang_up_at[1])

    def stall_these(self) -> None:
        """Stop answering the present connections, but not new ones."""
        self._deaf = set(self._clients)

    def resume(self) -> None:
        """Resume after a stall, including commands from lost connections."""
        self.stalled = False
        self.stalled_command = b""
        self._deaf.clear()
        pending, self._pending = self._pending, []
        for writer, words in pending:
            self._answer(writer, words)

    def push(self, channel: str, message: bytes) -> None:
        """Deliver a message to its subscribers."""
        self.write_to(channel, _array(b"message", channel.encode(), message))

    def write_to(self, channel: str, reply: bytes) -> None:
        """Write any bytes to a channel's subscribers."""
        for writer, channels in self._clients.items():
            if channel.encode() in channels:
                writer.write(reply)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._clients[writer] = set()
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
            pass  # it has closed
        finally:
            del self._clients[writer]
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, words: Words) -> None:
        name = words[0].decode().upper()
        hangs_up, fates = self._hang_up_at
        if name == hangs_up and fates:
            if fates.pop(0):
                self._carry_out(writer, name, words)
            writer.transport.abort()
            return
        reply = self._refusal(name, words)
        if not reply:
            reply = self._carry_out(writer, name, words)
        if not writer.transport.is_closing():
            writer.write(reply)

    def _refusal(self, name: str, words: Words) -> bytes:
        if name == "PUBLISH" and words[1] in self.forbidden:
            return b"-NOPERM No permissions to access a channel\r\n"
        return _next(self.replies.get(name, b""))

    def _carry_out(
        self, writer: asyncio.StreamWriter, name: str, words: Words
    ) -> bytes:
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
        if name in ("EVALSHA", "EVAL"):
            return self._evaluate(name, words)
        if name == "PING":
            return _array(b"pong", b"") if channels else b"+PONG\r\n"
        if name == "HELLO":
            facts = (b"proto", 2, b"mode", self.mode, b"role", self.role)
            return _array(*facts)
        if words[:2] == [b"CLIENT", b"INFO"]:
            ours, theirs = map(writer.get_extra_info, ("sockname", "peername"))
            return _bulk(
                b"id=1 addr=%b laddr=%b fd=8" % (_end(theirs), _end(ours))
            )
        if name == "INFO":
            return _bulk(b"# Server\r\ntcp_port:%d\r\n" % self.tcp_port)
        return b"+OK\r\n"

    def _publish(self, channel: bytes, message: bytes) -> None:
        self.published.append((channel.decode(), message))
        self.push(channel.decode(), message)

    def _evaluate(self, name: str, words: Words) -> bytes:
        sha, key, number, messages = words[1], words[3], words[4], words[6:]
        if key in self._foreign or len(self._foreign) < self.moved:
            self._foreign.add(key)
            return b"-MOVED 7 127.0.0.1:7001\r\n"
        if name == "EVAL":
            self._scripts.add(hashlib.sha1(sha).hexdigest().encode())
        elif sha not in self._scripts:
            return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
        error = _next(self.script_errors.get(b"GET", b""))
        if error:
            return b"-GET %b\r\n" % error
        if key in self.producers:
            last, _, refused = self.producers[key].partition(b" ")
            if int(number) == int(last):
                return _bulk(refused)
            if int(number) < int(last):
                return b"$-1\r\n"
        elif number != b"0":
            return b"$-1\r\n"
        error = _next(self.script_errors.get(b"SET", b""))
        if error:
            return b"-SET %b\r\n" % error
        refused = b""
        for i in range(0, len(messages), 2):
            if messages[i] in self.forbidden:
                refused += b" %d" % (i // 2)
            else:
                self._publish(messages[i], messages[i + 1])
        self.producers[key] = number + refused
        return _bulk(refused)


async def _words(reader: asyncio.StreamReader) -> Words:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


def _next(reply: Union[bytes, List[bytes]]) -> bytes:
    if isinstance(reply, list):
        return reply.pop(0) if reply else b""
    return reply


def _end(address: Any) -> bytes:
    if not isinstance(address, tuple):
        return b"/redis.sock:0"
    return "{}:{}".format(*address).encode()


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
