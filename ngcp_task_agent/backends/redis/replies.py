"""Replies: reads what a server sends, within bounds.

redis-py's parsers buffer whatever a server announces, and that of 4.3.4 also
what it has parsed, until there is a pause.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Generator

from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError, InvalidResponse

MAX_REPLY = 64 << 20  # bytes of a reply; Redis' own limit is usually 32 MB
_MOST_ITEMS = 200  # of all arrays in a reply; this also bounds their depth
_LONGEST_LINE = 65536  # bytes
_LONGEST_ERROR = 1000  # bytes that are kept
_READ = 65536  # bytes
# What nearly all replies are: the start of a message, up to its body.
_MESSAGE = re.compile(
    rb"\*3\r\n\$7\r\nmessage\r\n\$(\d{1,3})\r\n([^\r]*)\r\n\$(\d{1,7})\r\n"
)


class ReplyParser(DefaultParser):  # type: ignore[misc]
    """Replaces redis-py's parser; does not decode."""

    EXCEPTION_CLASSES = {
        **DefaultParser.EXCEPTION_CLASSES,
        # In protected mode, the server says so and hangs up.
        "DENIED": ConnectionError,
    }
    # redis-py would disconnect.
    del EXCEPTION_CLASSES["LOADING"]

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        # What was read and is not yet parsed, from _at on.
        self._buffer, self._at = bytearray(), 0
        # Of one reply: items so far, and bytes that strings may still have.
        self._items = self._room = 0

    def on_connect(self, connection: Any) -> None:
        self._stream = connection._reader
        self._buffer.clear()
        self._at = 0

    def on_disconnect(self) -> None:
        self._stream = None

    async def read_response(self, *_: Any, **__: Any) -> Any:
        """
        :raises ConnectionError: when the server has closed the connection
        :raises InvalidResponse: for a reply that is too large, or is none
        """
        message = self._message()
        if message and self._stream:
            return message
        self._items, self._room = 0, MAX_REPLY
        parsing = self._parse()
        while self._stream:
            try:
                missing = next(parsing)
            except StopIteration as parsed:
                return parsed.value
            except ValueError:
                raise InvalidResponse("it does not speak RESP") from None
            del self._buffer[: self._at]
            self._at = 0
            if not await self._read(self._stream, missing):
                break
        raise ConnectionError("Connection closed by server.")

    async def _read(self, stream: asyncio.StreamReader, missing: int) -> bool:
        """Read at least ``missing`` bytes; return False at the end."""
        try:
            if missing > _READ:
                self._buffer += await stream.readexactly(missing)
                return True
        except asyncio.IncompleteReadError:
            return False
        more = await stream.read(_READ)
        self._buffer += more
        return bool(more)

    def _message(self) -> Any:
        """Return the message at _at; None if it is not there, or not whole."""
        found = _MESSAGE.match(self._buffer, self._at)
        if not found or int(found[1]) != len(found[2]):
            return None
        start, size = found.end(), int(found[3])
        end = start + size + 2
        if end > len(self._buffer):
            return None
        self._at = end
        return [b"message", found[2], bytes(self._buffer[start : end - 2])]

    def _parse(self) -> Generator[int, None, Any]:
        """Parse one reply, and return it.

        Yields when it needs more than was read: how many bytes at least, or 0
        if it does not know.
        """
        self._items += 1
        if self._items > _MOST_ITEMS:
            raise InvalidResponse(
                f"it sends a reply of more than {_MOST_ITEMS} items"
            )
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            if len(self._buffer) - self._at > _LONGEST_LINE:
                raise InvalidResponse("it sends an endless line")
            yield 0
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        kind, rest = line[:1], line[1:]
        if kind == b"$" or kind == b"*":
            size = int(rest)
            if size < 0:
                return None
            if kind == b"$":
                return (yield from self._parse_string(size))
            parts = []
            for _ in range(size):
                parts.append((yield from self._parse()))
            return parts
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind != b"-":
            raise ValueError(kind)
        text = rest[:_LONGEST_ERROR].decode(errors="replace")
        error = self.parse_error(text)
        if isinstance(error, ConnectionError):
            raise error
        return error

    def _parse_string(self, size: int) -> Generator[int, None, bytes]:
        self._room -= size
        if self._room < 0:
            raise InvalidResponse(
                f"it sends a reply of more than {MAX_REPLY >> 20} MiB"
            )
        while (missing := self._at + size + 2 - len(self._buffer)) > 0:
            yield missing
        with memoryview(self._buffer) as view:
            text = bytes(view[self._at : self._at + size])
        self._at += size + 2
        return text
