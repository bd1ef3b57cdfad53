"""LiveOutput: what a request's work writes, sent as it comes.

It never waits, and never holds up an answer.  What the backend cannot take now
is kept here, but only the newest part; the next message says how much is left
out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import Deque, List, Optional

from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Origin, encode_live

PER_SECOND = 10  # messages
PIECE = 65536  # bytes of output in a message
# Seconds between messages: 8 a second at most, so that at the end two can
# leave at once.
SPACING = 0.13
KEPT = 4 * PIECE  # bytes of each stream that wait


class _Stream:
    """Standard output or standard error: the part that is not sent yet.

    :ivar omitted: bytes left out just before what waits
    :ivar has_ended: nothing more comes, so the rest counts as a line
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting = bytearray()
        self.omitted = 0
        self.has_ended = False

    def add(self, data: bytes) -> None:
        self.waiting += data
        excess = len(self.waiting) - KEPT
        if excess > 0:
            self.leave_out(self._begin(excess))

    def leave_out(self, size: int) -> None:
        self.omitted += size
        del self.waiting[:size]

    @property
    def piece(self) -> int:
        """The size of the next message: whole lines; 0 for none yet."""
        waiting = self.waiting
        if len(waiting) <= PIECE and self.has_ended:
            return len(waiting)
        end = waiting.rfind(b"\n", 0, PIECE) + 1
        if not end and len(waiting) >= PIECE:
            end = self._character(PIECE - 3)  # a part of a long line
        return end

    def newest(self, most: int) -> List[int]:
        """Leave out all but the newest messages; return their sizes."""
        end = len(self.waiting)
        sizes: List[int] = []
        while end and len(sizes) < most:
            begin = self._begin(end - PIECE) if end > PIECE else 0
            sizes.append(end - begin)
            end = begin
        self.leave_out(end)
        return sizes[::-1]

    def _begin(self, at: int) -> int:
        """Return where a line begins, at or soon after a position."""
        # If that is far, the line is long, and is cut.
        line = self.waiting.find(b"\n", at - 1, at + PIECE - 1) + 1
        return line or self._character(at)

    def _character(self, at: int) -> int:
        """Return where a character of UTF-8 begins, at or after a position."""
        for begin in range(at, min(at + 4, len(self.waiting))):
            if self.waiting[begin] & 0xC0 != 0x80:
                return begin
        return at


class LiveOutput:
    """Sends messages to the progress channel of one request.

    The two streams take turns.

    :param address: where the backend sends them
    :param node: this node's name
    """

    def __init__(
        self, backend: Backend, address: str, origin: Origin, node: str
    ) -> None:
        self._backend, self._address = backend, address
        self._origin, self._node = origin, node
        # The next one to send comes first.
        self._streams = [_Stream("stdout"), _Stream("stderr")]
        self._number = 0
        self._sent: Deque[float] = deque(maxlen=PER_SECOND)  # when
        self._timer: Optional[asyncio.TimerHandle] = None
        backend.expect_live()

    def write(self, name: str, data: bytes) -> None:
        """Take what comes from a stream; ``b""`` is its end."""
        for stream in self._streams:
            if stream.name == name:
                if data:
                    stream.add(data)
                else:
                    stream.has_ended = True
        if self._timer is None:
            self._step()

    def end(self) -> None:
        """Send the newest of what is left, as much as the rate allows.

        What is written later is not sent.
        """
        if self._timer:
            self._timer.cancel()
        since = time.monotonic() - 1.0
        room = PER_SECOND - sum(sent > since for sent in self._sent)
        left = [stream for stream in self._streams if stream.waiting]
        for number, stream in enumerate(left):
            share = room // (len(left) - number)
            for size in stream.newest(share):
                if not self._send(stream, size):
                    break
                room -= 1
        self._streams = []

    def _step(self) -> None:
        """Send a message if there is one; then wait before the next."""
        self._timer = None
        for stream in self._streams:
            size = stream.piece
            if size:
                self._send(stream, size)
                self._streams.reverse()
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(SPACING, self._step)
                return

    def _send(self, stream: _Stream, size: int) -> bool:
        """Send the next ``size`` bytes, unless the backend has no room."""
        encode = partial(self._encode, stream, size)
        try:
            if not self._backend.send_live(self._address, encode):
                return False
        except Exception:
            # Of a plugin, perhaps.  The ending must leave all the same.
            text = f"request {self._origin.uuid}: no live output: a bug"
            journal.record(journal.BUG, text, bug=True)
            self._streams = []
            return False
        self._number += 1
        self._sent.append(time.monotonic())
        stream.omitted = 0
        del stream.waiting[:size]
        return True

    def _encode(self, stream: _Stream, size: int) -> bytes:
        return encode_live(
            self._origin,
            self._node,
            stream.name,
            self._number + 1,
            bytes(stream.waiting[:size]),
            stream.omitted,
        )
