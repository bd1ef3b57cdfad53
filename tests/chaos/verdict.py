"""The verdict: compares decisions of agents with answers and command runs."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import (
    Collection,
    Counter,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Set,
    Tuple,
)

from tests.chaos.journal import Journal, Record
from tests.chaos.observer import Heard
from tests.chaos.storm import Window
from tests.chaos.tasks import Request

# Failures that must never happen.
FAILURES = (
    "lost, logged, without excuse",
    "lost, logged, soon after scripts were refused",
    "lost in silence",
    "doubled",
    "out of order",
    "wrong data",
    "wrong ending",
    "no ending",
    "not asked for",
    "not in the log",
    "ran twice",
    "accepted but not run",
)
(
    _LOST,
    _SOON,
    SILENT,
    _DOUBLED,
    _DISORDER,
    _DATA,
    _ENDING,
    _OPEN,
    _UNASKED,
    _UNLOGGED,
    _TWICE,
    _NOT_RUN,
) = FAILURES

# Losses that the agent has logged and could not avoid.
_RESTART = "lost, logged: the server was restarted"
_RIGHTS = "lost, logged: the user might not publish"
_REFUSED = "lost, logged: scripts refused and a connection cut"
_STOPPED = "lost, logged: the agent was stopped in an outage"
_UNKNOWN = "not heard just before a restart, which says nothing"
_KILLED = "lost: the agent was killed"
_CUT_SHORT = "no ending: the agent was killed"
_LEFT_OUT = "not heard: the records of more rejections were left out"
_FALSE = "heard, though logged as lost"
_DOUBTFUL = "heard, though logged as perhaps lost"
EXCUSED = (
    _RESTART,
    _RIGHTS,
    _REFUSED,
    _STOPPED,
    _UNKNOWN,
    _KILLED,
    _CUT_SHORT,
    _LEFT_OUT,
    _FALSE,
    _DOUBTFUL,
)

_SLACK = 0.1  # seconds between an event and its record
# Seconds in which an agent may not know yet that scripts run again.
_TRAIL = 12.0
_UNNOTICED = 3.0  # seconds in which a lane may have been idle
# Seconds before a server's end in which an answer may have been published that
# the observer missed, because both were cut at once.
_BLIND = 10.0
_BLIND_LARGE = 60.0
_LARGE = 1 << 16  # characters

_GROUPS = {
    "accepted": "accepted",
    "rejected": "rejected",
    "done": "ending",
    "error": "ending",
}
_AS_BEFORE = "one before"  # part of the request was lost, so this is too
_BY_STOPPING = ("is stopping", "has ended the")


class Finding(NamedTuple):
    """A node's answers to a request that are not as expected."""

    what: str
    node: str
    uuid: str
    detail: str


@dataclass
class _Response:
    """The chunks received of a response."""

    status: str
    first: int  # its position among all messages
    chunks: int
    reason: str
    next: int = 1
    size: int = 0
    checksum: int = 0
    skipped: Set[int] = field(default_factory=set)

    @property
    def is_whole(self) -> bool:
        return self.next == self.chunks + 1 and not self.skipped


class Verdict:
    """Judges one run.

    :param runs: how often each node ran the command, by request
    :param kills: whether agents were killed, and so cannot answer everything
    :ivar counts: of findings, of answers ``expected`` and ``delivered``, and
        of requests that a node was ``asked`` and has ``heard``
    :ivar findings: the failures
    """

    def __init__(
        self,
        sent: Mapping[str, Request],
        journals: Sequence[Journal],
        heard: Iterable[Heard],
        runs: Mapping[str, Counter[str]],
        windows: Sequence[Window],
        kills: bool,
    ) -> None:
        self.counts: Counter[str] = collections.Counter()
        self.findings: List[Finding] = []
        self._sent = sent
        self._windows = windows
        self._kills = kills
        # The nodes that have left out records of rejections.
        self._bounded = {j.node for j in journals if j.is_bounded}
        by_place: Dict[Tuple[str, str], List[Heard]] = {}
        for message in heard:
            by_place.setdefault((message.src, message.ref), []).append(message)
        self._heard = by_place
        for journal in journals:
            for request in sent.values():
                self.counts["asked"] += journal.node in request.nodes
            self.counts["heard"] += len(journal.records)
            ran = runs[journal.node]
            places = {u for n, u in by_place if n == journal.node}
            for uuid in {**journal.records, **dict.fromkeys(places), **ran}:
                self._judge(
                    journal.node,
                    uuid,
                    journal.records.get(uuid, []),
                    by_place.get((journal.node, uuid), []),
                    ran[uuid],
                )

    @property
    def failures(self) -> int:
        return len(self.findings)

    def windows_of(
        self, node: str, begin: float, end: float
    ) -> Iterator[Window]:
        """Return the faults that hit a node in this time."""
        for window in self._windows:
            if (
                window.node in (None, node)
                and window.begin <= end
                and window.end >= begin
            ):
                yield window

    def heard_of(self, finding: Finding) -> List[Heard]:
        return self._heard.get((finding.node, finding.uuid), [])

    def _fail(self, what: str, node: str, uuid: str, detail: str) -> None:
        self.counts[what] += 1
        self.findings.append(Finding(what, node, uuid, detail))

    def _judge(
        self,
        node: str,
        uuid: str,
        records: List[Record],
        heard: List[Heard],
        ran: int,
    ) -> None:
        request = self._sent.get(uuid)
        if request is None or node not in request.nodes:
            self._fail(_UNASKED, node, uuid, f"{len(records)} records")
            return
        if ran > 1:
            self._fail(_TWICE, node, uuid, f"{ran} times")
        statuses = [record.what for record in records]
        endings = [r for r in records if r.what in ("done", "error")]
        if "accepted" in statuses and not endings:
            if self._kills:
                self.counts[_CUT_SHORT] += 1
            else:
                self._fail(_OPEN, node, uuid, "")
        if endings and not ran and not _is_by_stopping(endings[0].more):
            self._fail(_NOT_RUN, node, uuid, endings[0].more)
        responses = self._responses(node, uuid, heard)
        self._count(node, uuid, request, records, responses, ran)
        for response in responses:
            if response.is_whole:
                self._check(node, uuid, request, response)

    def _responses(
        self, node: str, uuid: str, heard: List[Heard]
    ) -> List[_Response]:
        """Join the received chunks into responses."""
        found: Dict[str, _Response] = {}
        for place, message in enumerate(heard):
            response = found.setdefault(
                message.response,
                _Response(
                    message.status, place, message.chunks, message.reason
                ),
            )
            chunk = message.chunk
            if chunk in response.skipped:
                response.skipped.remove(chunk)
                self._fail(_DISORDER, node, uuid, f"chunk {chunk}")
            elif chunk < response.next:
                self._fail(_DOUBLED, node, uuid, f"chunk {chunk}")
                continue
            else:
                response.skipped.update(range(response.next, chunk))
                response.next = chunk + 1
            response.size += message.size
            response.checksum = message.checksum
        responses = list(found.values())
        first_ending = next(
            (r.first for r in responses if _GROUPS[r.status] == "ending"), None
        )
        if first_ending is not None and any(
            r.status == "accepted" and r.first > first_ending
            for r in responses
        ):
            self._fail(_DISORDER, node, uuid, "accepted after the ending")
        return responses

    def _count(
        self,
        node: str,
        uuid: str,
        request: Request,
        records: List[Record],
        responses: List[_Response],
        ran: int,
    ) -> None:
        """Check that there is one answer for each decision."""
        losses = [record for record in records if record.what == "lost"]
        first_loss = losses[0] if losses else None
        for group in ("accepted", "rejected", "ending"):
            decided = [r for r in records if _GROUPS.get(r.what) == group]
            got = [r for r in responses if _GROUPS[r.status] == group]
            may_lack = group == "rejected" and node in self._bounded
            whole = sum(r.is_whole for r in got)
            self.counts["expected"] += len(decided)
            self.counts["delivered"] += min(whole, len(decided))
            if len(got) > len(decided):
                if decided:
                    self._fail(_DOUBLED, node, uuid, group)
                elif not self._kills and not may_lack:
                    self._fail(_UNLOGGED, node, uuid, group)
            for record in decided[: len(decided) - whole]:
                if losses and first_loss:
                    loss = losses.pop(-1 if group == "ending" else 0)
                    is_by_first = _AS_BEFORE in loss.more
                    what = self._excuse(
                        node,
                        records[0].at if is_by_first else record.at,
                        loss.at,
                        first_loss.more if is_by_first else loss.more,
                    )
                elif may_lack:
                    what = _LEFT_OUT
                else:
                    what = self._reason_of_silence(node, request, record)
                if what in FAILURES:
                    self._fail(what, node, uuid, group)
                else:
                    self.counts[what] += 1
        if ran and not records and not self._kills:
            self._fail(_UNLOGGED, node, uuid, "it ran")
        for loss in losses:
            is_sure = loss.more.startswith("is lost")
            self.counts[_FALSE if is_sure else _DOUBTFUL] += 1

    def _excuse(self, node: str, made: float, lost: float, why: str) -> str:
        """Find an excuse for an answer that was logged as lost.

        :param made: when it, or an earlier answer that was lost with it, was
            made
        """
        begin, end = made - _SLACK, lost + _SLACK
        causes = {w.cause for w in self.windows_of(node, begin, end)}
        if "restart" in causes:
            return _RESTART
        if "rights" in causes and "refuses" in why:
            return _RIGHTS
        if "agent" in causes:
            if self._kills:
                return _KILLED
            if causes & {"break", "refusal"}:
                return _STOPPED
        # A cut may only be noticed when the next answer is sent.
        cuts = self.windows_of(node, made - _UNNOTICED, end)
        if "refusal" in causes and any(w.cause == "break" for w in cuts):
            return _REFUSED
        before = self.windows_of(node, made - _TRAIL, end)
        if any(window.cause == "refusal" for window in before):
            return _SOON
        return _LOST

    def _reason_of_silence(
        self, node: str, request: Request, record: Record
    ) -> str:
        is_large = request.data()[0] > _LARGE
        blind = _BLIND_LARGE if is_large else _BLIND
        begin = record.at - _SLACK
        for window in self.windows_of(node, begin, record.at + blind):
            if window.cause == "restart" and begin <= window.begin:
                return _UNKNOWN
            if window.cause == "agent" and self._kills:
                return _KILLED
        return SILENT

    def _check(
        self, node: str, uuid: str, request: Request, response: _Response
    ) -> None:
        """Check that an answer says what it should."""
        if response.status in ("accepted", "rejected"):
            if response.status == "accepted" and request.ending is None:
                self._fail(_ENDING, node, uuid, "must be rejected")
            return
        if _is_by_stopping(response.reason):
            return
        if response.status != request.ending:
            detail = f"{response.status}: {response.reason}"
            self._fail(_ENDING, node, uuid, detail)
        elif (response.size, response.checksum) != request.data():
            detail = f"{response.size} for {request.data()[0]} characters"
            self._fail(_DATA, node, uuid, detail)


def _is_by_stopping(reason: str) -> bool:
    return any(words in reason for words in _BY_STOPPING)


def first_of_each(
    findings: Collection[Finding], most: int
) -> Iterator[Finding]:
    """Return the first few of each kind."""
    shown: Counter[str] = collections.Counter()
    for finding in findings:
        shown[finding.what] += 1
        if shown[finding.what] <= most:
            yield finding
