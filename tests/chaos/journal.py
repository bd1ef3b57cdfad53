"""The agents' logs: what each has decided, and which losses it reports."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

_UUID = "([0-9a-f]{8}-[0-9a-f-]{27})"
_RECORD = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]+) +(.*)"
)
_DECISION = re.compile(
    rf"(accepted|rejected|done|error) .{{1,128}} from .{{1,255}}, "
    rf"request {_UUID}(.*)"
)
_LOSS = re.compile(rf"answer to request {_UUID} ((?:is|may be) lost.*)")

_LEFT_OUT = re.compile(r"\d+ more .*rejected requests ")

_SHOWN = 300  # characters of a line


class Record(NamedTuple):
    """A record about a request.

    :ivar at: unix time
    :ivar what: ``accepted``, ``rejected``, ``done``, ``error`` or ``lost``
    """

    at: float
    what: str
    uuid: str
    more: str


class Journal:
    """One agent's log, as it grows.

    :ivar records: by request
    :ivar open: requests that were accepted and have not ended
    :ivar stray: lines that are not records, such as those of a traceback
    :ivar bugs: records of the agent's own bugs
    :ivar accepted: how many requests
    :ivar is_bounded: whether records of rejections were left out
    """

    def __init__(self, node: str, path: Path) -> None:
        self.node = node
        self.path = path
        self.records: Dict[str, List[Record]] = {}
        self.open: Set[str] = set()
        self.stray: List[str] = []
        self.bugs: List[str] = []
        self.accepted = 0
        self.is_bounded = False
        self._read_to = 0
        self._second: Tuple[str, float] = ("", 0.0)

    def read(self) -> None:
        """Read what has been added."""
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._take(line)

    def lines_about(self, uuid: str) -> Iterator[str]:
        """Return the lines about one request."""
        with self.path.open(errors="replace") as file:
            for line in file:
                if uuid in line:
                    yield line.rstrip()[:_SHOWN]

    def _take(self, line: str) -> None:
        record = _RECORD.fullmatch(line)
        if not record:
            self.stray.append(line[:_SHOWN])
            return
        second, millis, _, text = record.groups()
        if "a bug" in text or "Traceback" in text:
            self.bugs.append(line[:_SHOWN])
        if second != self._second[0]:
            parsed = time.strptime(second, "%Y-%m-%d %H:%M:%S")
            self._second = second, time.mktime(parsed)
        at = self._second[1] + int(millis) / 1000
        decision = _DECISION.match(text)
        if decision:
            what, uuid, more = decision.groups()
            self._add(Record(at, what, uuid, more))
            return
        if _LEFT_OUT.match(text):
            self.is_bounded = True
        loss = _LOSS.search(text)
        if loss:
            self._add(Record(at, "lost", *loss.groups()))

    def _add(self, record: Record) -> None:
        self.records.setdefault(record.uuid, []).append(record)
        if record.what == "accepted":
            self.accepted += 1
            self.open.add(record.uuid)
        elif record.what in ("done", "error"):
            self.open.discard(record.uuid)
