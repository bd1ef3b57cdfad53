"""Replies: reads what a server sends, within bounds.

redis-py's parsers buffer whatever a server announces, and that of 4.3.4 also
what it has parsed, until there is a pause.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError, InvalidResponse

MAX_REPLY = 64 << 20  # bytes of a reply; Redis' own limit is usually 32 MB
_MOST_ITEMS = 200  # of all arrays in a reply; this also bounds their depth
_LONGEST_ERROR = 1000  # bytes that are kept


class ReplyParser(DefaultParser):  # type: ignore[misc]
    """Replaces redis-py's parser; does not decode."""

    # Without LOADING, for which redis-py would disconnect.
    EXCEPTION_CLASSES = {
        code: kind
        for code, kind in DefaultParser.EXCEPTION_CLASSES.items()
        if code != "LOADING"
    }

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._items = self._room = 0

    def on_connect(self, connection: Any) -> None:
        self._stream = connection._reader

    def on_disconnect(self) -> None:
        self._stream = None

    async def read_response(self, *_: Any, **__: Any) -> Any:
        """
        :raises ConnectionError: when the server has closed the connection
        :raises InvalidResponse: for a reply that is too large, or is none
        """
        self._items, self._room = 0, MAX_REPLY
        try:
            if self._stream:
                return await self._read(self._stream)
        except asyncio.IncompleteReadError:
            pass
        except asyncio.LimitOverrunError:
            raise InvalidResponse("it sends an endless line") from None
        except ValueError:
            raise InvalidResponse("it does not speak RESP") from None
        raise ConnectionError("Connection closed by server.")

    async def _read(self, stream: asyncio.StreamReader) -> Any:
        self._items += 1
        if self._items > _MOST_ITEMS:
            raise InvalidResponse(
                f"it sends a reply of more than {_MOST_ITEMS} items"
            )
        line = await stream.readuntil(b"\r\n")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$" or kind == b"*":
            size = int(rest)
            if size < 0:
                return None
            if kind == b"*":
                return [await self._read(stream) for _ in range(size)]
            self._room -= size
            if self._room < 0:
                raise InvalidResponse(
                    f"it sends a reply of more than {MAX_REPLY >> 20} MiB"
                )
            return (await stream.readexactly(size + 2))[:-2]
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
