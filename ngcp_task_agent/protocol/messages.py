"""Requests and responses: JSON in, JSON out.

The fields and their rules are the protocol's, see
ngcp-task-agent-protocol(7).
"""

from __future__ import annotations

import codecs
import json
import math
import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NoReturn,
    Optional,
    Union,
)

from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.protocol.salvage import salvage

MAX_DEPTH = 100  # how deep arrays and objects of a request may be nested
MAX_NESTED = 50_000  # arrays and objects of a request: each costs memory
MAX_REASON = 1000  # characters of a response's reason

# The longest text of each field, in characters.
_LENGTHS = {"uuid": 36, "task": 128, "src": 255, "dst": 4096}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
# NUL cannot be in an argument or the environment of a command, and a lone
# surrogate in no UTF-8 text.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")

# Characters, or bytes, of data that are turned into JSON at a time.
_BLOCK = 65536


@dataclass(frozen=True)
class Origin:
    """What every response repeats of its request, as far as it was read."""

    uuid: Optional[str] = None
    task: Optional[str] = None
    src: Optional[str] = None


@dataclass(frozen=True)
class Request:
    """A request whose fields are sound."""

    uuid: str
    task: str
    src: str
    dst: str
    options: Mapping[str, Any]
    data: Any
    timestamp: float  # unix time of receipt
    datetime: str  # the same, ISO 8601 with offset
    size: int  # bytes of the message

    @property
    def origin(self) -> Origin:
        return Origin(self.uuid, self.task, self.src)


class Malformed(Rejected):
    """A message that is no request.

    :ivar origin: what could be read of it, for the answer
    :ivar options: the request's options, to find out where to answer
    """

    def __init__(
        self, reason: str, origin: Origin, options: Mapping[str, Any]
    ) -> None:
        super().__init__(reason)
        self.origin = origin
        self.options = options


def parse_request(body: bytes, limit: int) -> Request:
    """Read a request.

    :param limit: the most bytes that a message may have
    :raises Malformed: with a reason that names the field at fault
    """
    if len(body) > limit:
        raise _salvage(
            body, f"the message has {len(body)} bytes, the limit is {limit}"
        )
    # Also those within strings, of which no honest request has so many.
    if body.count(b"[") + body.count(b"{") > MAX_NESTED:
        raise _salvage(
            body, f"the message has more than {MAX_NESTED} arrays and objects"
        )
    try:
        message = load_json(body.decode())
    except UnicodeDecodeError:
        raise _salvage(body, "the message is not UTF-8") from None
    except RecursionError:
        raise _salvage(body, _TOO_DEEP) from None
    except json.JSONDecodeError as error:
        is_cut = not error.doc[error.pos :].strip() or "Unterm" in error.msg
        raise _salvage(body, _NO_JSON, is_cut) from None
    except ValueError:
        # Such as numbers of thousands of digits.
        raise _salvage(body, _NO_JSON) from None
    if not isinstance(message, dict):
        raise Malformed("the message is not a JSON object", Origin(), {})
    return _check(message, len(body))


_NO_JSON = "the message is not JSON"
_TOO_DEEP = f"the message is nested more than {MAX_DEPTH} levels deep"


def load_json(text: str) -> Any:
    """Read JSON that can be written as JSON again.

    :raises ValueError: also for NaN, which is none, and for 1e999
    :raises RecursionError: for more than ``MAX_DEPTH`` levels
    """
    value = json.loads(
        text, parse_constant=_no_constant, parse_float=_finite_number
    )
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise RecursionError
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite_number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("the number is too large")
    return number


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _check(message: Dict[str, Any], size: int) -> Request:
    """The rules of the fields, in the protocol's order."""
    options = message.get("options")

    def fault(reason: str) -> Malformed:
        origin = Origin(
            _echo(message.get("uuid"), 128),
            _echo(message.get("task"), _LENGTHS["task"]),
            _echo(message.get("src"), _LENGTHS["src"]),
        )
        return Malformed(
            reason, origin, options if isinstance(options, dict) else {}
        )

    for name, longest in _LENGTHS.items():
        value = message.get(name)
        if name == "uuid":
            if not isinstance(value, str) or not _UUID.fullmatch(value):
                raise fault(
                    "uuid must be a UUID in its hyphenated form, such as "
                    "'cb88ac76-f348-4614-866f-43877b893e7e'"
                )
        elif not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise fault(
                f"{name} must be a string of 1 to {longest} characters"
            )
        elif _UNUSABLE.search(value):
            raise fault(f"{name} must not hold NUL or half a surrogate pair")
    if not isinstance(options, dict):
        raise fault("options must be an object")
    now = time.time()
    return Request(
        uuid=message["uuid"],
        task=message["task"],
        src=message["src"],
        dst=message["dst"],
        options=options,
        data=message.get("data"),
        timestamp=now,
        datetime=_iso(now),
        size=size,
    )


def _echo(value: Any, longest: int) -> Optional[str]:
    """A field for a response, or None where it could be no such field."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        return None
    return None if _UNUSABLE.search(value) else value


def _salvage(body: bytes, reason: str, is_cut: bool = False) -> Malformed:
    """The error for a message that was not read, with what stands out."""
    found = salvage(body, is_cut)
    channel = _echo(found.get("feedback_channel"), 512)
    return Malformed(
        reason,
        Origin(
            _echo(found.get("uuid"), 128),
            _echo(found.get("task"), _LENGTHS["task"]),
            _echo(found.get("src"), _LENGTHS["src"]),
        ),
        {"feedback_channel": channel} if channel else {},
    )


@dataclass(frozen=True)
class Response:
    """One answer of this node to a request.

    :param status: ``accepted``, ``rejected``, ``done`` or ``error``
    :param reason: a sentence for ``rejected`` and ``error``, else empty
    :param data: the task's output for ``done`` and ``error``, else None; in
        bytes what is not UTF-8 is replaced
    """

    origin: Origin
    src: str
    status: str
    reason: str = ""
    data: Union[str, bytes, None] = None
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def encode(self, limit: int) -> List[bytes]:
        """The messages to send: one, or the chunks in their order.

        May take a while for much data; Python runs other threads meanwhile.

        :param limit: bytes that no message may exceed; far more than what
            the fields other than ``data`` can need
        """
        now = time.time()
        head = {
            "uuid": self.uuid,
            "ref": self.origin.uuid,
            "task": self.origin.task,
            "src": self.src,
            "dst": self.origin.src,
            "timestamp": now,
            "datetime": _iso(now),
        }
        tail = {"status": self.status, "reason": self.reason[:MAX_REASON]}
        start = _json(head)[:-1]
        middle = _json(tail)[1:-1]
        if self.data is None:
            whole = f'{start}, "chunk": 1, "chunks": 1, {middle}'
            return [f'{whole}, "data": null}}'.encode()]
        room = limit - len(f"{start}{middle}".encode()) - 80
        pieces = _cut(_json_text(self.data), room)
        return [
            b'%b, "chunk": %d, "chunks": %d, %b, "data": "%b"}'
            % (start.encode(), chunk, len(pieces), middle.encode(), piece)
            for chunk, piece in enumerate(pieces, 1)
        ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_text(data: Union[str, bytes]) -> bytes:
    """The inside of a JSON string, in blocks: none holds up the others."""
    return b"".join(_json(text)[1:-1].encode() for text in _blocks(data))


def _blocks(data: Union[str, bytes]) -> Iterator[str]:
    blocks = range(0, len(data), _BLOCK)
    if isinstance(data, str):
        yield from (data[at : at + _BLOCK] for at in blocks)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for at in blocks:
        yield decoder.decode(data[at : at + _BLOCK])
    yield decoder.decode(b"", final=True)


def _cut(text: bytes, room: int) -> List[bytes]:
    """Cut the inside of a JSON string into pieces of whole characters."""
    pieces = []
    at = 0
    while len(text) - at > room:
        end = _boundary(text, at, at + room)
        pieces.append(text[at:end])
        at = end
    pieces.append(text[at:])
    return pieces


def _boundary(text: bytes, start: int, end: int) -> int:
    """The last place up to ``end`` that stands between two characters."""
    while text[end] & 0xC0 == 0x80:  # within a UTF-8 sequence
        end -= 1
    slash = text.rfind(b"\\", max(start, end - 5), end)
    if slash < 0:
        return end
    # In a run of backslashes each second one is itself escaped.
    before = text[start:slash]
    if (len(before) - len(before.rstrip(b"\\"))) % 2:
        return end
    escape = 6 if text[slash + 1] == ord("u") else 2
    return slash if slash + escape > end else end


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat()
