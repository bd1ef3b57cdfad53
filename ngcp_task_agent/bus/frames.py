"""Frames: the messages in what the bus sends.

Any user of the machine can send calls and signals to us, as large and as odd
as D-Bus allows, and as fast as the bus carries them.
"""

from __future__ import annotations

import struct
from typing import Iterator, Tuple

# Bytes of a call or a signal: reading the parts of one of the 32 MB that the
# system bus carries takes seconds, and memory ten times its size.
LONGEST = 16384
# Bytes to read at once, and of a large reply: a flood must leave time for the
# rest of the event loop.
_AT_ONCE, _OF_LARGE = 4096, 1 << 18

_HEAD = 16  # bytes, up to the length of the header's fields
_TYPE, _FLAGS = 1, 2  # their places
_CALL, _SIGNAL = 1, 4  # types
_REPLIES = (2, 3)  # only whom we have asked can send one
_NO_REPLY = 1  # a flag
_TO = b"\6\1s\0"  # before the name of whom a message is for
_FROM_BUS = b"\7\1s\0", b"org.freedesktop.DBus\0"


class Frames:
    """Cuts a stream of bytes into messages; leaves out what is unwanted.

    That is what is too large, and what can be sent without end: calls that
    want no reply, and signals of others than the bus to us alone.  To parse
    them takes longer than to send them, and replies would wait behind them.
    """

    def __init__(self) -> None:
        self._have = bytearray()
        self._skip = 0  # bytes

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most."""
        missing = self._lengths()[1] - len(self._have)
        return min(max(_AT_ONCE, missing), _OF_LARGE)

    def add(self, data: bytes) -> Iterator[bytes]:
        """Return the messages that are complete with more bytes."""
        have = self._have
        have += data
        while have:
            if self._skip:
                skipped = min(self._skip, len(have))
                del have[:skipped]
                self._skip -= skipped
                continue
            header, length = self._lengths()
            if length > LONGEST and have[_TYPE] not in _REPLIES:
                self._skip = length
            elif not 0 < length <= len(have):
                return
            elif have[_TYPE] == _CALL and have[_FLAGS] & _NO_REPLY:
                self._skip = length
            elif have[_TYPE] == _SIGNAL and _is_forced_on_us(have[:header]):
                self._skip = length
            else:
                # Of no use here; some versions of dbus-fast know only some.
                have[_FLAGS] = 0
                yield bytes(have[:length])
                del have[:length]

    def _lengths(self) -> Tuple[int, int]:
        """Return those of the first message's header, and of all of it.

        0 if not yet known.
        """
        if len(self._have) < _HEAD:
            return 0, 0
        order = "<" if self._have[:1] == b"l" else ">"
        body, _, fields = struct.unpack_from(f"{order}III", self._have, 4)
        header: int = _HEAD + fields + -fields % 8
        return header, header + body


def _is_forced_on_us(header: bytearray) -> bool:
    """Whether a signal is to us alone, past all matches, and not the bus's.

    Only at a glance: what is not found here is when it is parsed.
    """
    if _TO not in header:
        return False
    before, name = _FROM_BUS
    at = header.find(before)
    return header[at + len(before) + 4 :][: len(name)] != name
