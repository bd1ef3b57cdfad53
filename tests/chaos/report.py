"""The report: a table, and details of every failure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Counter, Iterator, Mapping, Sequence

from tests.chaos.journal import Journal
from tests.chaos.storm import Storm
from tests.chaos.tasks import Request
from tests.chaos.verdict import (
    EXCUSED,
    FAILURES,
    Finding,
    Verdict,
    first_of_each,
)

_SHOWN = 3  # findings of each kind to print
_WRITTEN = 100  # findings of each kind to keep in a file
_BEFORE = 2.0  # seconds before a request whose faults are listed


class Report:
    """Reports on a run.

    :param sent: all requests, by uuid
    """

    def __init__(
        self,
        verdict: Verdict,
        storm: Storm,
        journals: Sequence[Journal],
        sent: Mapping[str, Request],
    ) -> None:
        self._verdict = verdict
        self._storm = storm
        self._journals = {journal.node: journal for journal in journals}
        self._sent = sent

    def table(self, **more: Any) -> Iterator[str]:
        """Return the figures."""
        counts = self._verdict.counts
        rows = {
            **more,
            "requests": len(self._sent),
            "for all nodes together": counts["asked"],
            "heard, as the node was connected": counts["heard"],
            "accepted": sum(j.accepted for j in self._journals.values()),
            "answers expected": counts["expected"],
            "answers delivered": counts["delivered"],
            **{what: counts[what] for what in FAILURES},
            **{what: counts[what] for what in EXCUSED if counts[what]},
        }
        for name, value in rows.items():
            yield f"{name.replace('_', ' '):52} {value:>10}"
        yield f"faults: {_figures(self._storm.counts)}"
        yield f"not possible then: {_figures(self._storm.missed)}"

    def findings(self, folder: Path) -> Iterator[str]:
        """Return the first of each kind; more of them go to a file."""
        findings = self._verdict.findings
        for finding in first_of_each(findings, _SHOWN):
            yield ""
            yield from self._explain(finding)
        with (folder / "findings").open("w") as file:
            for finding in first_of_each(findings, _WRITTEN):
                print(*self._explain(finding), sep="\n", file=file)

    def _explain(self, finding: Finding) -> Iterator[str]:
        node, uuid = finding.node, finding.uuid
        journal = self._journals[node]
        yield f"{finding.what}: {finding.detail}"
        yield f"    {node}, {self._sent.get(uuid, uuid)}"
        for line in journal.lines_about(uuid):
            yield f"    {line}"
        for heard in self._verdict.heard_of(finding):
            yield (
                f"    heard at {_clock(heard.at)}: {heard.status} "
                f"{heard.chunk}/{heard.chunks} of response {heard.response}, "
                f"{heard.size} characters {heard.reason}"
            )
        records = journal.records.get(uuid)
        if records:
            begin, end = records[0].at - _BEFORE, records[-1].at + 1
            for window in self._verdict.windows_of(node, begin, end):
                yield (
                    f"    {window.kind} from {_clock(window.begin)} to "
                    f"{_clock(window.end)}"
                )


def _figures(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))


def _clock(at: float) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    return f"{clock},{int(at % 1 * 1000):03}"
