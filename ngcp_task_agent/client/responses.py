"""Received responses: parses JSON and joins chunks."""

from __future__ import annotations

import enum
import json
import re
import sys
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Optional

from ngcp_task_agent.protocol.messages import LONGEST_NAME

_LONGEST_REASON = 10_000  # characters that are kept
_MOST_CHUNKS = 1_000_000
_OVERHEAD = 1024  # bytes that a message may need besides its text
MOST_NESTED = 1 << 20  # bytes of a message with arrays or objects in it
_MOST_FIELDS = 100

_FIELD = re.compile(r'\s*[{,]\s*"([^"\\]*)"\s*:\s*(?=[^\[{\s])')
_END = re.compile(r"\s*}\s*")
_VALUE = json.JSONDecoder()


class Status(enum.Enum):
    """What a node says about a request."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DONE = "done"
    ERROR = "error"

    @property
    def is_ending(self) -> bool:
        return self in (Status.DONE, Status.ERROR)


@dataclass(frozen=True)
class ReceivedResponse:
    """One complete response.

    :ivar node: the name of the node that sent it
    :ivar reason: a sentence for ``rejected`` and ``error``, else empty
    :ivar data: the task's output for ``done`` and ``error``, else None
    :ivar seconds: from sending the request to this response
    :ivar unused: the task could not use the request's data
    """

    node: str
    status: Status
    reason: str
    data: Optional[str]
    seconds: float
    unused: bool = False


class Message(NamedTuple):
    """A message on the feedback channel: a response, or a chunk of one."""

    uuid: str
    ref: str
    src: str
    status: Status
    reason: str
    data: Optional[str]
    chunk: int
    chunks: int
    unused: bool = False


def parse(body: bytes) -> Optional[Message]:
    """Parse a message; return None if it is not a response."""
    try:
        fields = _load(body.decode())
        status = Status(fields["status"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    ref, src, uuid = fields.get("ref"), fields.get("src"), fields.get("uuid")
    if not isinstance(uuid, str):
        uuid = ""
    chunk, chunks = fields.get("chunk", 1), fields.get("chunks", 1)
    if (
        not isinstance(ref, str)
        or not isinstance(src, str)
        or not 1 <= len(src) <= LONGEST_NAME
        or len(uuid) > LONGEST_NAME
        or type(chunk) is not int
        or type(chunks) is not int
        or not 1 <= chunk <= chunks <= _MOST_CHUNKS
    ):
        return None
    reason, data = fields.get("reason"), None
    if status.is_ending:
        data = fields.get("data")
        if data is None:
            data = ""
        elif not isinstance(data, str):
            # Older agents send any JSON.
            data = json.dumps(data)
    return Message(
        uuid=uuid,
        ref=ref,
        src=src,
        status=status,
        reason=reason[:_LONGEST_REASON] if isinstance(reason, str) else "",
        data=data,
        chunk=chunk,
        chunks=chunks,
        unused=status.is_ending and fields.get("unused") is True,
    )


def _load(text: str) -> Any:
    """Parse JSON; if it is large, only an object of strings and numbers.

    Arrays and objects take up to 30 times their text in memory.  An answer
    has none, except that older agents send any JSON as data.
    """
    if len(text) <= MOST_NESTED:
        return json.loads(text)
    fields: Dict[str, Any] = {}
    at = 0
    for _ in range(_MOST_FIELDS):
        name = _FIELD.match(text, at)
        if not name:
            break
        fields[name[1]], at = _VALUE.raw_decode(text, name.end())
    if not _END.fullmatch(text, at):
        raise ValueError("not a flat object")
    return fields


class TooMuch(Exception):
    """The answers to one request need more memory than the limit."""


class Joiner:
    """Joins the chunks of the responses to one request.

    :param limit: bytes of memory for everything that is kept
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        # By the node, the response's uuid, and the chunk's number.
        self._parts: Dict[str, Dict[str, Dict[int, Message]]] = {}

    def take(self, message: Message) -> Optional[Message]:
        """Take a message; return the whole response once its chunks are there.

        The chunks can arrive in any order.

        :raises TooMuch: after dropping what was kept of that node's responses
        """
        responses = self._parts.get(message.src, {})
        parts = responses.get(message.uuid, {})
        first = next(iter(parts.values()), message)
        if message.chunk in parts or message.chunks != first.chunks:
            return None
        size = _size(message)
        if size > self._left:
            self.forget(message.src)
            raise TooMuch
        self._left -= size
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
            data = "".join(parts[n].data or "" for n in sorted(parts))
        return message._replace(data=data, chunk=1, chunks=1)

    def forget(self, src: str) -> None:
        """Drop the incomplete responses of this node."""
        for parts in self._parts.pop(src, {}).values():
            self._left += sum(map(_size, parts.values()))


def _size(message: Message) -> int:
    return (
        sys.getsizeof(message.data) + sys.getsizeof(message.reason) + _OVERHEAD
    )
