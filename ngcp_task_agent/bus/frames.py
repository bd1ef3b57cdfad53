"""Frames: the messages in what the bus sends.

Any user of the machine can send calls and signals to us, as large and as odd
as D-Bus allows, and as fast as the bus carries them.
"""

from __future__ import annotations

import struct
from typing import Iterator

# Bytes of a call or a signal: reading the parts of one of the 32 MB that the
# system bus carries takes seconds, and memory ten times its size.
LONGEST = 16384
# Bytes to read at once, and of a large reply: a flood must leave time for the
# rest of the event loop.
_AT_ONCE, _OF_LARGE = 4096, 1 << 18

_HEAD = 16  # bytes, up to the length of the header's fields
_TYPE, _FLAGS = 1, 2  # their places
_REPLIES = (2, 3)  # types; only whom we have asked can send one
_NO_REPLY = 1  # the flag that says something to us


class Frames:
    """Cuts a stream of bytes into messages; leaves out what is too large."""

    def __init__(self) -> None:
        self._have = bytearray()
        self._skip = 0  # bytes

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most."""
        missing = self._length() - len(self._have)
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
            length = self._length()
            if length > LONGEST and have[_TYPE] not in _REPLIES:
                self._skip = length
            elif 0 < length <= len(have):
                # Some versions of dbus-fast know only single flags.
                have[_FLAGS] &= _NO_REPLY
                yield bytes(have[:length])
                del have[:length]
            else:
                return

    def _length(self) -> int:
        """Return the length of the first message; 0 if not yet known."""
        if len(self._have) < _HEAD:
            return 0
        order = "<" if self._have[:1] == b"l" else ">"
        body, _, fields = struct.unpack_from(f"{order}III", self._have, 4)
        length: int = _HEAD + fields + -fields % 8 + body
        return length
