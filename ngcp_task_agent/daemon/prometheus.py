"""The agent's counters in Prometheus' text format.

Loaded by metrics.py only when there is a ``metrics_file``: the library takes
memory.
"""

from __future__ import annotations

from typing import Iterator, List, Mapping, Tuple

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ngcp_task_agent.daemon.metrics import Snapshot
from ngcp_task_agent.requests.counters import BUCKETS

_PREFIX = "ngcp_task_agent"


def text(snapshot: Snapshot) -> bytes:
    """Return what a metrics file contains."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        info = InfoMetricFamily(
            f"{_PREFIX}_build", "The version, and the name of the node."
        )
        info.add_metric(
            [], {"version": snapshot.version, "node": snapshot.node}
        )
        yield info
        yield GaugeMetricFamily(
            f"{_PREFIX}_up",
            "Whether the agent runs; 0 once it has stopped.",
            value=snapshot.is_up,
        )
        backends = GaugeMetricFamily(
            f"{_PREFIX}_backend_up",
            "Whether a backend receives requests and delivers answers.",
            labels=["backend"],
        )
        for name, is_up in snapshot.backends:
            backends.add_metric([name], is_up)
        yield backends
        jobs = GaugeMetricFamily(
            f"{_PREFIX}_jobs",
            "Accepted requests that have not ended.",
            labels=["state"],
        )
        jobs.add_metric(["running"], snapshot.running)
        jobs.add_metric(["queued"], snapshot.queued)
        yield jobs
        yield CounterMetricFamily(
            f"{_PREFIX}_received",
            "Messages on control channels.",
            value=snapshot.totals["received"],
        )
        yield from _counters("", [], [((), snapshot.totals)])
        yield from _counters(
            "task_",
            ["task"],
            [((name,), counted) for name, counted in snapshot.tasks],
        )
        yield self._durations()

    def _durations(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            f"{_PREFIX}_task_duration_seconds",
            "From the arrival of a request to its end.",
            labels=["task"],
        )
        bounds = [*(str(float(bound)) for bound in BUCKETS), "+Inf"]
        for name, counts, total in self._snapshot.durations:
            buckets, below = [], 0
            for bound, count in zip(bounds, counts):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric([name], buckets, total)
        return family


def _counters(
    kind: str,
    labels: List[str],
    counted: List[Tuple[Tuple[str, ...], Mapping[str, int]]],
) -> Iterator[Metric]:
    """Yield the families of all messages, or those by task.

    In each, the sum over the last label means something.
    """
    what = "of a task" if kind else "of all tasks"
    requests = CounterMetricFamily(
        f"{_PREFIX}_{kind}requests",
        f"Requests {what}, by what became of them at their arrival.",
        labels=[*labels, "outcome"],
    )
    rejections = CounterMetricFamily(
        f"{_PREFIX}_{kind}rejections",
        f"Rejected requests {what}, by the reason.",
        labels=[*labels, "reason"],
    )
    endings = CounterMetricFamily(
        f"{_PREFIX}_{kind}endings",
        f"Accepted requests {what} that have ended, by the status.",
        labels=[*labels, "status"],
    )
    outcomes = ["rejected", "accepted"] if kind else ["ignored"]
    if not kind:
        outcomes += ["rejected", "accepted"]
    for values, counts in counted:
        for outcome in outcomes:
            requests.add_metric([*values, outcome], counts[outcome])
        busy, duplicates = counts["busy"], counts["duplicates"]
        for reason, count in (
            ("busy", busy),
            ("duplicate", duplicates),
            ("other", counts["rejected"] - busy - duplicates),
        ):
            rejections.add_metric([*values, reason], count)
        for status in ("done", "error"):
            endings.add_metric([*values, status], counts[status])
    yield from (requests, rejections, endings)
