"""Bytes of messages, as D-Bus defines them.

dbus-fast could make them, too; but it does so in one go, which takes 0.1 s for
ten thousand jobs, and its version 1.84 announces the number of a string's
characters, not of its bytes, for which the bus disconnects.
"""

from __future__ import annotations

import asyncio
import re
import struct
import time
from typing import TYPE_CHECKING, Any, Iterator, List

if TYPE_CHECKING:
    from dbus_fast.message import Message

# Seconds to keep the event loop busy.
_SLICE = 0.002

_FIXED = {
    code: struct.Struct(f"<{form}")
    for code, form in zip("ybnqiuxtdh", "BIhHiIqQdI")
}
_ALIGNMENT = {
    **{code: form.size for code, form in _FIXED.items()},
    "s": 4,
    "o": 4,
    "g": 1,
    "v": 1,
    "a": 4,
    "(": 8,
    "{": 8,
}
# What no string on the bus may contain.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


async def marshalled(message: Message) -> bytes:
    """Return a message's bytes; leaves time for the rest of the event loop.

    :raises Exception: when a value in the body is not of its type
    """
    body = _Writer()
    end = time.monotonic() + _SLICE
    for _ in body.put_all(message.signature_tree.types, message.body):
        if time.monotonic() >= end:
            await asyncio.sleep(0)
            end = time.monotonic() + _SLICE
    return _header(message, len(body.out)) + bytes(body.out)


def _header(message: Message, body: int) -> bytes:
    from dbus_fast.signature import SignatureTree, Variant

    fields = [
        [code, Variant(kind, value)]
        for code, kind, value in (
            (1, "o", message.path),
            (2, "s", message.interface),
            (3, "s", message.member),
            (4, "s", message.error_name),
            (5, "u", message.reply_serial),
            (6, "s", message.destination),
            (8, "g", message.signature),
            (9, "u", len(message.unix_fds)),
        )
        if value
    ]
    head = [message.message_type.value, message.flags.value, 1]
    values = [ord("l"), *head, body, message.serial, fields]
    writer = _Writer()
    for _ in writer.put_all(SignatureTree("yyyyuua(yv)").types, values):
        pass
    writer.align(8)
    return bytes(writer.out)


class _Writer:
    """Writes values, by their types in dbus-fast's tree of a signature.

    A generator gives others a turn at each ``yield``.
    """

    def __init__(self) -> None:
        self.out = bytearray()

    def align(self, size: int) -> None:
        self.out += bytes(-len(self.out) % size)

    def put_all(self, kinds: List[Any], values: Any) -> Iterator[None]:
        if len(kinds) != len(values):
            raise ValueError(f"{len(values)} values for {len(kinds)} types")
        for kind, value in zip(kinds, values):
            token = kind.token
            if token in _FIXED:
                self.align(_ALIGNMENT[token])
                self.out += _FIXED[token].pack(value)
            elif token in "so":
                self._put_text(value)
            else:
                yield from self._put_container(kind, value)

    def _put_text(self, value: str) -> None:
        if not value.isascii() or "\0" in value:
            value = _UNUSABLE.sub("\ufffd", value)
        data = value.encode()
        self.align(4)
        self.out += _FIXED["u"].pack(len(data)) + data + b"\0"

    def _put_signature(self, value: str) -> None:
        self.out += bytes([len(value)]) + value.encode() + b"\0"

    def _put_container(self, kind: Any, value: Any) -> Iterator[None]:
        token, children = kind.token, kind.children
        if token == "g":
            self._put_signature(value)
        elif token == "v":
            from dbus_fast.signature import SignatureTree

            self._put_signature(value.signature)
            types = SignatureTree(value.signature).types
            yield from self.put_all(types, [value.value])
        elif token == "a":
            yield from self._put_array(children[0], value)
        else:
            self.align(8)
            yield from self.put_all(children, value)

    def _put_array(self, kind: Any, value: Any) -> Iterator[None]:
        self.align(4)
        at = len(self.out)
        self.out += bytes(4)
        self.align(_ALIGNMENT[kind.token])
        begin = len(self.out)
        if kind.token == "y":
            self.out += value
        for part in () if kind.token == "y" else _parts(value):
            yield
            yield from self.put_all([kind], [part])
        length = len(self.out) - begin
        self.out[at : at + 4] = _FIXED["u"].pack(length)


def _parts(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else value
