"""Live output: what a task writes, line by line, while it runs.

See ``progress_channel`` in ngcp-task-agent-protocol(7).
"""

from __future__ import annotations

import json
from collections import deque
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterator,
    NamedTuple,
    Optional,
)

from ngcp_task_agent.client.errors import RedisUnavailable
from ngcp_task_agent.client.responses import ReceivedResponse
from ngcp_task_agent.client.session import Session
from ngcp_task_agent.protocol.messages import LONGEST_NAME

MAX_WAITING = 16 << 20  # characters of lines that are not taken yet
LONGEST_LINE = 65536  # characters; a longer one becomes several
_LARGEST = 1 << 20  # bytes of a message
_MOST_NODES = 10_000
_OVERHEAD = 200  # bytes that a line needs besides its text
_STREAMS = ("stdout", "stderr")


class LiveLine(NamedTuple):
    """A line of a task's output.

    :ivar node: the name of the node
    :ivar stream: ``stdout`` or ``stderr``
    :ivar text: without the newline
    :ivar omitted: how many bytes were left out before it
    """

    node: str
    stream: str
    text: str
    omitted: int = 0


class LiveLines:
    """Makes lines of the live output of one request.

    If they are not taken in time, the oldest are dropped.

    :param ref: the request's uuid
    :param limit: characters that may wait to be taken
    :ivar wake: is called once when there are new lines
    """

    def __init__(self, ref: str, limit: int = MAX_WAITING) -> None:
        self._ref = ref
        self._left = limit
        self.wake: Callable[[], None] = _nothing
        self._lines: Deque[LiveLine] = deque()
        self._outputs: Dict[str, _Output] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def take(self, body: bytes) -> None:
        """Take a message from the progress channel."""
        message = self._parse(body) if len(body) <= _LARGEST else None
        output = message and self._output_of(message.node)
        if not message or not output:
            return
        for line in output.take(message):
            self._lines.append(line)
            self._left -= _size(line)
        self._left -= output.grown()
        while self._left < 0 and self._lines:
            line = self._lines.popleft()
            self._left += _size(line)
            self._outputs[line.node].drop(line)
        if self._left < 0:
            # Many nodes have begun a line.
            for line in output.flush():
                output.drop(line)
            self._left -= output.grown()
        if self._lines:
            self.wake()
            self.wake = _nothing

    def pop(self) -> LiveLine:
        """Return the oldest line."""
        line = self._lines.popleft()
        self._left += _size(line)
        return self._outputs[line.node].with_dropped(line)

    def end(self, response: ReceivedResponse) -> Iterator[LiveLine]:
        """Return the rest of a node's output, when pop() has returned all."""
        if not response.status.is_ending:
            return
        output = self._output_of(response.node) or _Output(response.node)
        for line in output.end(response.data or ""):
            yield output.with_dropped(line)
        yield from output.dropped_last()
        self._left -= output.grown()

    def close(self) -> Iterator[LiveLine]:
        """Return what is left of nodes that have not ended."""
        for output in self._outputs.values():
            for line in output.flush():
                yield output.with_dropped(line)
            yield from output.dropped_last()

    def _output_of(self, node: str) -> Optional[_Output]:
        output = self._outputs.get(node)
        if not output and len(self._outputs) < _MOST_NODES:
            output = self._outputs[node] = _Output(node)
        return output

    def _parse(self, body: bytes) -> Optional[_LiveMessage]:
        try:
            fields: Any = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or fields.get("ref") != self._ref:
            return None
        node, number = fields.get("src"), fields.get("number")
        stream, data = fields.get("stream"), fields.get("data")
        omitted = fields.get("omitted", 0)
        if (
            not isinstance(node, str)
            or not 1 <= len(node) <= LONGEST_NAME
            or stream not in _STREAMS
            or type(number) is not int
            or not isinstance(data, str)
            or type(omitted) is not int
            or not 0 <= omitted < 1 << 63
        ):
            return None
        return _LiveMessage(node, stream, number, data, omitted)


class _LiveMessage(NamedTuple):
    node: str
    stream: str
    number: int
    data: str
    omitted: int


class _Output:
    """The output of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._rests = dict.fromkeys(_STREAMS, "")  # lines that have begun
        self._omitted = dict.fromkeys(_STREAMS, 0)
        self._dropped = dict.fromkeys(_STREAMS, 0)
        self._is_cut = dict.fromkeys(_STREAMS, False)
        self._number = 0
        self._seen = 0  # characters of standard output
        self._has_gap = False  # in standard output
        self._has_ended = False
        self._counted = 0

    def grown(self) -> int:
        """Return how much longer the rests are than the last time."""
        size = sum(map(len, self._rests.values()))
        grown, self._counted = size - self._counted, size
        return grown

    def take(self, message: _LiveMessage) -> Iterator[LiveLine]:
        """Return the lines that a message completes."""
        stream, is_stdout = message.stream, message.stream == "stdout"
        self._has_gap |= message.number != self._number + 1
        self._has_gap |= is_stdout and message.omitted > 0
        self._number = message.number
        if is_stdout and self._has_ended and not self._has_gap:
            return  # end() has returned it
        if message.omitted:
            yield from self._flush(stream)
            self._omitted[stream] += message.omitted
        self._seen += len(message.data) if is_stdout else 0
        yield from self._split(stream, self._rests[stream] + message.data, 0)
        is_long = len(self._rests[stream]) >= LONGEST_LINE
        if is_long or self._has_ended:
            yield from self._flush(stream)
        if is_long:
            self._is_cut[stream] = True

    def end(self, data: str) -> Iterator[LiveLine]:
        """Return what is left at an ending.

        :param data: all that was written to standard output
        """
        if self._has_ended:
            # Another node of the same name.
            yield from self._split("stdout", data, 0)
        elif not self._has_gap:
            begin = self._seen - len(self._rests["stdout"])
            yield from self._split("stdout", data, begin)
        self._has_ended = True
        yield from self.flush()

    def flush(self) -> Iterator[LiveLine]:
        """Return what has no newline yet."""
        for stream in _STREAMS:
            yield from self._flush(stream)

    def drop(self, line: LiveLine) -> None:
        """Count a line that was not taken in time."""
        size = len(line.text.encode(errors="replace")) + 1
        self._dropped[line.stream] += size + line.omitted

    def with_dropped(self, line: LiveLine) -> LiveLine:
        """Return a line that says, too, what was not taken before it."""
        dropped, self._dropped[line.stream] = self._dropped[line.stream], 0
        return line._replace(omitted=line.omitted + dropped)

    def dropped_last(self) -> Iterator[LiveLine]:
        """Say what was not taken, if no line has followed."""
        for stream in _STREAMS:
            if self._dropped[stream]:
                yield self.with_dropped(LiveLine(self._node, stream, ""))

    def _split(self, stream: str, text: str, begin: int) -> Iterator[LiveLine]:
        while (end := text.find("\n", begin)) >= 0:
            # The end of a line that was cut is no empty line.
            if end > begin or not self._is_cut[stream]:
                yield self._line(stream, text[begin:end])
            self._is_cut[stream] = False
            begin = end + 1
        self._rests[stream] = text[begin:]

    def _flush(self, stream: str) -> Iterator[LiveLine]:
        text, self._rests[stream] = self._rests[stream], ""
        if text or self._omitted[stream]:
            yield self._line(stream, text)

    def _line(self, stream: str, text: str) -> LiveLine:
        omitted, self._omitted[stream] = self._omitted[stream], 0
        return LiveLine(self._node, stream, text, omitted)


def _nothing() -> None:
    """Nothing waits for lines."""


def _size(line: LiveLine) -> int:
    return len(line.text) + _OVERHEAD


class LiveFeed:
    """The lines of one request, and the session that they come over.

    If it is lost, the request goes on.

    :ivar lost: why there is no more live output, or empty
    """

    def __init__(self, lines: LiveLines, session: Session) -> None:
        self.lines = lines
        self.lost = ""
        self.is_closed = False
        self._session = session

    async def open(self, timeout: float) -> None:
        """Subscribe, within ``timeout`` seconds."""
        try:
            await self._session.open(timeout)
        except RedisUnavailable as error:
            self.lost = str(error)

    async def close(self) -> None:
        """Close at once; a second time does nothing."""
        if not self.is_closed and self._session.lost.done():
            self.lost = self.lost or self._session.lost.result()
        self.is_closed = True
        await self._session.close()
