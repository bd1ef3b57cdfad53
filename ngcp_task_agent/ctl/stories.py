"""Stories: the records of each request together, under one heading.

The journal has them in the order of time, those of several requests mixed.
A story is written a while after its request has ended, or at the end.  What
waits is bounded, however long the journal is: beyond that, the story that
began first is written as far as it goes, and may have a second part.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable, List, Optional

from ngcp_task_agent.ctl.records import ENDINGS, STARTED, Record, local_time

# Seconds for further records of a request that has ended: an answer that
# cannot be sent is given up after 60.
LINGER = 90.0
MOST_HELD = 16 << 20  # bytes of stories that wait
_OVERHEAD = 200  # bytes for each line


class _Story:
    """The lines of one request.

    :ivar ended: when its last decision was made; None before
    """

    def __init__(self, record: Record) -> None:
        self.first = record
        self.lines: List[str] = []
        self.size = _OVERHEAD
        self.ended: Optional[float] = None
        self._is_accepted = False

    def add(self, record: Record) -> int:
        """Add a line; return by how much that has grown the story."""
        # Records about lost answers have neither task nor src.
        if self.first.task is None:
            self.first = record
        line = f"    {record.line()}\n"
        self.lines.append(line)
        if record.status == "accepted":
            self._is_accepted, self.ended = True, None
        elif record.status in ("done", "error") or (
            # A second request with the same uuid is rejected.
            record.status in ENDINGS and not self._is_accepted
        ):
            self.ended = record.when
        # Most lines have one byte for each character.
        grown = len(line) + _OVERHEAD
        self.size += grown
        return grown

    def text(self) -> str:
        return "".join([f"{self.first.request()}\n", *self.lines])


class Stories:
    """Groups records.

    :param write: takes the text of a story
    :param most_held: bytes, about, that may wait to be written
    """

    def __init__(
        self, write: Callable[[str], None], most_held: int = MOST_HELD
    ) -> None:
        self._write = write
        self._most_held = most_held
        self._held = 0
        self._running: OrderedDict[str, _Story] = OrderedDict()
        # In the order in which they have ended.
        self._ended: OrderedDict[str, _Story] = OrderedDict()

    def add(self, record: Record) -> None:
        """Take the next record in the order of time."""
        self._write_old(record.when)
        if record.status == STARTED:
            self._give_up(record.when)
        elif record.is_about_all:
            self._write(f"{record.line()}\n")
        elif record.key is None:
            self._write(f"{record.request()}\n    {record.line()}\n")
        else:
            self._file(record.key, record)

    def end(self) -> None:
        """Write what is left, in the order in which the stories began."""
        left = [*self._running.items(), *self._ended.items()]
        left.sort(key=lambda item: item[1].first.when)
        for key, _ in left:
            self._put_out(key)

    def _file(self, key: str, record: Record) -> None:
        story = self._running.get(key) or self._ended.pop(key, None)
        if story is None:
            story = self._running[key] = _Story(record)
            self._held += story.size
        self._held += story.add(record)
        if story.ended is None:
            self._running[key] = story
        else:
            self._running.pop(key, None)
            self._ended[key] = story
        while self._held > self._most_held:
            self._put_out(next(iter(self._ended or self._running)))

    def _write_old(self, now: float) -> None:
        while self._ended:
            key, story = next(iter(self._ended.items()))
            if story.ended is None or 0 <= now - story.ended < LINGER:
                break
            self._put_out(key)

    def _give_up(self, now: float) -> None:
        """Write what has not ended: the agent has started anew."""
        for key, story in list(self._running.items()):
            line = f"no end in the journal: a new agent at {local_time(now)}"
            story.lines.append(f"    {line}\n")
            self._put_out(key)

    def _put_out(self, key: str) -> None:
        story = self._running.pop(key, None) or self._ended.pop(key)
        self._held -= story.size
        self._write(story.text())
