"""Responses as they arrive: JSON in, chunks joined."""

from __future__ import annotations

import enum
import json
import sys
from dataclasses import dataclass
from typing import Any, Dict, Optional

_LONGEST_NAME = 255  # characters
_LONGEST_REASON = 10_000  # characters that are kept
_MOST_CHUNKS = 1_000_000
_OVERHEAD = 1024  # bytes that anything kept may need besides its text


class Status(enum.Enum):
    """What a node says of a request."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DONE = "done"
    ERROR = "error"

    @property
    def is_ending(self) -> bool:
        return self in (Status.DONE, Status.ERROR)


@dataclass(frozen=True)
class Response:
    """One response, complete.

    :ivar node: the name of the node that sent it
    :ivar reason: a sentence for ``rejected`` and ``error``, else empty
    :ivar data: the task's output for ``done`` and ``error``, else None
    :ivar seconds: from the sending of the request to this response
    """

    node: str
    status: Status
    reason: str
    data: Optional[str]
    seconds: float


@dataclass(frozen=True)
class Message:
    """What came from the feedback channel: a response, or a chunk of one."""

    uuid: str
    ref: str
    src: str
    status: Status
    reason: str
    data: Optional[str]
    chunk: int
    chunks: int


def parse(body: bytes) -> Optional[Message]:
    """Read a message; None for what is no response to a request."""
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    ref, src, uuid = fields.get("ref"), fields.get("src"), fields.get("uuid")
    if not isinstance(uuid, str):
        uuid = ""
    chunk, chunks = fields.get("chunk", 1), fields.get("chunks", 1)
    if (
        not isinstance(ref, str)
        or not isinstance(src, str)
        or not 1 <= len(src) <= _LONGEST_NAME
        or len(uuid) > _LONGEST_NAME
        or type(chunk) is not int
        or type(chunks) is not int
        or not 1 <= chunk <= chunks <= _MOST_CHUNKS
    ):
        return None
    try:
        status = Status(fields.get("status"))
    except ValueError:
        return None
    reason = fields.get("reason")
    return Message(
        uuid=uuid,
        ref=ref,
        src=src,
        status=status,
        reason=reason[:_LONGEST_REASON] if isinstance(reason, str) else "",
        data=_text(fields.get("data")) if status.is_ending else None,
        chunk=chunk,
        chunks=chunks,
    )


def _text(data: Any) -> str:
    """The data of an ending; agents of old send more than strings."""
    if data is None:
        return ""
    return data if isinstance(data, str) else json.dumps(data)


class TooMuch(Exception):
    """What one request's answers need exceeds the limit."""


class Joiner:
    """Joins the chunks of the responses to one request.

    :param limit: bytes of memory for all that is kept
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        # By the node, the response's uuid, and the chunk's number.
        self._parts: Dict[str, Dict[str, Dict[int, Message]]] = {}

    def take(self, message: Message) -> Optional[Message]:
        """The whole response, once all its chunks are there in any order.

        :raises TooMuch: and forgets what was kept of that response
        """
        responses = self._parts.get(message.src, {})
        parts = responses.get(message.uuid, {})
        if message.chunk in parts:
            return None
        for other in parts.values():
            if other.chunks != message.chunks:
                return None
            break
        try:
            self._keep(message)
        except TooMuch:
            self.forget(message.src)
            raise
        if message.chunks == 1:
            return message
        responses = self._parts.setdefault(message.src, responses)
        parts = responses.setdefault(message.uuid, parts)
        parts[message.chunk] = message
        if len(parts) < message.chunks:
            return None
        del responses[message.uuid]
        data = None
        if message.data is not None:
            data = "".join(
                parts[number].data or ""
                for number in range(1, message.chunks + 1)
            )
        return Message(
            message.uuid,
            message.ref,
            message.src,
            message.status,
            message.reason,
            data,
            1,
            1,
        )

    def forget(self, src: str) -> None:
        """Drop the chunks of this node's responses that are incomplete."""
        for parts in self._parts.pop(src, {}).values():
            for part in parts.values():
                self._left += _size(part)

    def _keep(self, message: Message) -> None:
        size = _size(message)
        if size > self._left:
            raise TooMuch
        self._left -= size


def _size(message: Message) -> int:
    return (
        sys.getsizeof(message.data) + sys.getsizeof(message.reason) + _OVERHEAD
    )
