"""Requests and responses: JSON in, JSON out.

The fields and their rules are the protocol's, see
ngcp-task-agent-protocol(7).
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, NoReturn, Optional, Sequence, Union

from ngcp_task_agent.errors import Rejected

MAX_DEPTH = 100  # levels of arrays and objects in a request
MAX_NESTED = 50_000  # arrays and objects of a request: each costs memory
MAX_REASON = 1000  # characters of a response's reason
LONGEST_NAME = 255  # characters of a node's or a client's name

# Maximum characters of each field, in the order of the checks.
LONGEST = {"uuid": 36, "task": 128, "src": LONGEST_NAME, "dst": 4096}

# UTF-8 cannot encode these.
SURROGATE = re.compile("[\ud800-\udfff]")
# The same and NUL, which a command's arguments and environment cannot contain.
UNUSABLE = re.compile("[\0\ud800-\udfff]")

# Bytes at the start of a broken message to search for its sender.
START = 65536

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_LONGEST_REF = 128  # characters of a faulty uuid that an answer repeats
_BLOCK = 65536  # bytes of data encoded at a time


def new_uuid() -> str:
    """Make a random UUID, as uuid.uuid4() does, whose module loads slowly."""
    parts = bytearray(os.urandom(16))
    parts[6] = 0x40 | parts[6] & 0x0F  # the version
    parts[8] = 0x80 | parts[8] & 0x3F  # the variant
    digits = parts.hex()
    return "-".join(
        (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    )


@dataclass(frozen=True)
class Origin:
    """The fields that every response repeats, as far as they were read."""

    uuid: Optional[str] = None
    task: Optional[str] = None
    src: Optional[str] = None


@dataclass(eq=False)
class Request:
    """A request with valid fields.

    :ivar body: the message.  Parsed, it can take twenty times as much memory,
        so forget() drops that.
    :ivar timestamp: unix time of receipt
    """

    body: bytes
    uuid: str
    task: str
    src: str
    timestamp: float
    _dst: bytes
    _message: Optional[Mapping[str, Any]]

    @property
    def origin(self) -> Origin:
        return Origin(self.uuid, self.task, self.src)

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.body)

    @property
    def datetime(self) -> str:
        """Time of receipt, ISO 8601 with offset."""
        return _iso(self.timestamp)

    @property
    def dst(self) -> str:
        return self._dst.decode()

    @property
    def options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self._fields["options"]
        return options

    @property
    def data(self) -> Any:
        return self._fields.get("data")

    @property
    def _fields(self) -> Mapping[str, Any]:
        message = self._message
        return load_json(self.body.decode()) if message is None else message

    def forget(self) -> None:
        """Keep only the text of ``options`` and ``data``.

        From now on, each access parses it.
        """
        self._message = None


class Malformed(Rejected):
    """A message that is not a request.

    :param fields: those that could be read
    :ivar options: the request's options, which say where to answer
    """

    def __init__(self, reason: str, fields: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.origin = Origin(
            _text(fields.get("uuid"), _LONGEST_REF),
            _text(fields.get("task"), LONGEST["task"]),
            _text(fields.get("src"), LONGEST["src"]),
        )
        options = fields.get("options")
        self.options: Mapping[str, Any] = (
            options if isinstance(options, dict) else {}
        )


def _text(value: Any, longest: int) -> Optional[str]:
    """Return the value if a response can repeat it, else None."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        return None
    return None if UNUSABLE.search(value) else value


def parse_request(body: bytes, limit: int) -> Request:
    """Parse a request.

    :param limit: maximum bytes of a message
    :raises Malformed: with a reason that names the faulty field
    """
    message: Any = None
    try:
        message = _load_message(body, limit)
        _check_fields(message, body)
    except Rejected as fault:
        fields = _first_fields(body) if message is None else message
        raise Malformed(str(fault), fields) from None
    return Request(
        body,
        message["uuid"],
        message["task"],
        message["src"],
        time.time(),
        message["dst"].encode(),
        message,
    )


def _load_message(body: bytes, limit: int) -> Mapping[str, Any]:
    if len(body) > limit:
        raise Rejected(
            f"the message has {len(body)} bytes, the limit is {limit}"
        )
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Rejected("the message is not UTF-8") from None
    return load_json(text)


def _check_fields(message: Mapping[str, Any], body: bytes) -> None:
    # Without an escape, JSON can contain neither of what is not usable.
    has_escapes = b"\\" in body
    for name, longest in LONGEST.items():
        value = message.get(name)
        if name == "uuid":
            if not isinstance(value, str) or not _UUID.fullmatch(value):
                raise Rejected(
                    "uuid must be a UUID in its hyphenated form, such as "
                    "'cb88ac76-f348-4614-866f-43877b893e7e'"
                )
        elif not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise Rejected(
                f"{name} must be a string of 1 to {longest} characters"
            )
        elif has_escapes and UNUSABLE.search(value):
            raise Rejected(
                f"{name} must not contain NUL or half a surrogate pair"
            )
    if not isinstance(message.get("options"), dict):
        raise Rejected("options must be an object")


_NAME = re.compile(r'\s*[{,]\s*"(\w+)"\s*:\s*')
_LENIENT = json.JSONDecoder(strict=False)


def _first_fields(body: bytes) -> Mapping[str, Any]:
    """Return the fields of a broken message that come before its first fault.

    Never looks inside ``data``: it may be secret, and must not decide where
    the answer goes.
    """
    text = body[:START].decode("utf-8-sig", "surrogateescape")
    fields: dict[str, Any] = {}
    at = 0
    while name := _NAME.match(text, at):
        try:
            fields[name[1]], at = _LENIENT.raw_decode(text, name.end())
        except (ValueError, RecursionError):
            break
    return fields


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError("JSON does not have", name, 0)


def _finite_number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise json.JSONDecodeError("the number is too large", text, 0)
    return number


# A function of ours for each number takes five times as long: for a large
# message, it is called only if a number may be too large.
_LARGE = 4096  # characters
_FAST = json.JSONDecoder(parse_constant=_no_constant)
_STRICT = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite_number
)
_PERHAPS_TOO_LARGE = re.compile(r"[0-9]{200}|[0-9][eE]\+?0*[1-9][0-9]{2}")


def load_json(text: str, what: str = "the message") -> Mapping[str, Any]:
    """Parse a JSON object that can be written as JSON again.

    Of equal keys, the last one counts.

    :param what: what the text is, for the reason
    :raises Rejected: also for more than ``MAX_NESTED`` arrays and objects or
        ``MAX_DEPTH`` levels, for NaN and 1e999
    """
    # Brackets in strings count, too: no real request has this many.
    nested = text.count("[") + text.count("{")
    if nested > MAX_NESTED:
        raise Rejected(f"{what} has more than {MAX_NESTED} arrays and objects")
    try:
        decoder = _STRICT
        if len(text) > _LARGE and not _PERHAPS_TOO_LARGE.search(text):
            decoder = _FAST
        value = decoder.decode(text)
        is_deep = nested > MAX_DEPTH and _is_deep(value, nested)
    except RecursionError:
        is_deep = True
    except json.JSONDecodeError:
        raise Rejected(f"{what} is not JSON") from None
    except ValueError:
        # Python's limit, unless PYTHONINTMAXSTRDIGITS sets another.
        raise Rejected(f"{what} has a number of over 4300 digits") from None
    if is_deep:
        raise Rejected(f"{what} is nested more than {MAX_DEPTH} levels deep")
    if not isinstance(value, dict):
        raise Rejected(f"{what} is not a JSON object")
    return value


def _is_deep(value: Any, nested: int) -> bool:
    """Whether a value has more than ``MAX_DEPTH`` levels.

    :param nested: how many arrays and objects it has at most
    """
    level = [value]
    for depth in range(1, MAX_DEPTH + 1):
        nested -= len(level)
        if not level or depth + nested <= MAX_DEPTH:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


@dataclass(frozen=True)
class Response:
    """One answer of this node to a request.

    :param status: ``accepted``, ``rejected``, ``done`` or ``error``
    :param reason: a sentence for ``rejected`` and ``error``, else empty
    :param data: the task's output for ``done`` and ``error``, else None;
        bytes that are not UTF-8 are replaced
    :param unused: that the task could not use the request's data
    """

    origin: Origin
    src: str
    status: str
    reason: str = ""
    data: Union[str, bytes, None] = None
    unused: bool = False
    uuid: str = field(default_factory=new_uuid)

    def encode(self, limit: int) -> Sequence[bytes]:
        """Encode the messages to send: one, or the chunks in their order.

        Takes a while for large data; other threads run meanwhile.

        :param limit: maximum bytes of a message; far more than all fields
            other than ``data`` can need
        """
        now = time.time()
        fields: Dict[str, Any] = {
            "uuid": self.uuid,
            "ref": self.origin.uuid,
            "task": self.origin.task,
            "src": self.src,
            "dst": self.origin.src,
            "timestamp": now,
            "datetime": _iso(now),
            "chunk": 1,
            "chunks": 1,
            "status": self.status,
            "reason": self.reason[:MAX_REASON],
        }
        if self.unused:
            fields["unused"] = True
        fields["data"] = ""  # the last one: see below
        data = self.data
        if data is None or len(data) <= _BLOCK:
            if isinstance(data, bytes):
                data = data.decode(errors="replace")
            message = _json({**fields, "data": data})
            if len(message) <= limit:
                return [message]
        start = _json(fields)[:-2]
        room = limit - len(start) - 22  # two larger numbers, and the end
        pieces = _pieces(self.data or "", room)
        messages = []
        for chunk, piece in enumerate(pieces, 1):
            if len(pieces) > 1:
                fields.update(chunk=chunk, chunks=len(pieces))
                start = _json(fields)[:-2]
            messages.append(b"".join((start, piece, b'"}')))
        return messages


def encode_live(
    origin: Origin,
    src: str,
    stream: str,
    number: int,
    data: bytes,
    omitted: int,
) -> bytes:
    """Encode a message with what a task has written, before its ending.

    :param src: this node's name
    :param stream: ``stdout`` or ``stderr``
    :param number: counts from 1, over both streams of a request
    :param data: what is not UTF-8 is replaced
    :param omitted: bytes of the stream that are left out before it
    """
    fields = {
        "ref": origin.uuid,
        "task": origin.task,
        "src": src,
        "stream": stream,
        "number": number,
        "data": data.decode(errors="replace"),
    }
    if omitted:
        fields["omitted"] = omitted
    return _json(fields)


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _json(value: Any) -> bytes:
    return _encode(value).encode(errors="replace")


def _pieces(data: Union[str, bytes], room: int) -> Sequence[bytearray]:
    """Split data into insides of JSON strings, up to ``room`` bytes each."""
    if isinstance(data, str):
        data = data.encode(errors="replace")
    # A character takes at most 6 bytes, and a block can begin with 3
    # replacements for bytes left over from the block before.
    size = min(_BLOCK, max(1, room // 6 - 2))
    blocks = (data[at : at + size] for at in range(0, len(data), size))
    pieces = [bytearray()]
    for text in codecs.iterdecode(blocks, "utf-8", "replace"):
        inside = _json(text)[1:-1]
        if len(pieces[-1]) + len(inside) > room:
            pieces.append(bytearray())
        pieces[-1] += inside
    return pieces


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat()
