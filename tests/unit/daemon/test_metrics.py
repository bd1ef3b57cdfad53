"""The metrics file: whole, current, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ngcp_task_agent.daemon import metrics, prometheus
from ngcp_task_agent.daemon.metrics import MetricsFile, Snapshot
from ngcp_task_agent.logs import journal
from ngcp_task_agent.requests.counters import BUCKETS, COUNTED
from tests.unit.fakes import Records, until

NOTHING = {"received": 0, **dict.fromkeys(COUNTED, 0)}
COUNTED_ONES = {
    "received": 21,
    "ignored": 5,
    "rejected": 6,
    "accepted": 10,
    "done": 7,
    "error": 2,
    "busy": 1,
    "duplicates": 3,
}
NASTY = 'a"b\\n{c}\n'


def snapshot(**fields: Any) -> Snapshot:
    usual = Snapshot(
        is_up=True,
        version="1.5.0",
        node="sp1",
        totals=COUNTED_ONES,
        tasks=[("ping", COUNTED_ONES), (NASTY, NOTHING)],
        durations=[("ping", [1, 2, *([0] * (len(BUCKETS) - 2)), 4], 9000.5)],
        running=3,
        queued=4,
        backends=[("redis", True), ("other", False)],
    )
    return usual._replace(**fields)


def samples(text: str) -> Dict[str, Dict[str, float]]:
    """Return the values by the name of a sample, and its labels in short."""
    found: Dict[str, Dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            labels = ",".join(v for _, v in sorted(sample.labels.items()))
            assert labels not in values
            values[labels] = sample.value
    return {
        name.replace("ngcp_task_agent_", "", 1): values
        for name, values in found.items()
    }


# What is in the file.


def test_everything_that_is_counted() -> None:
    found = samples(prometheus.text(snapshot()).decode())
    assert found["up"] == {"": 1}
    assert found["build_info"] == {"sp1,1.5.0": 1}
    assert found["backend_up"] == {"redis": 1, "other": 0}
    assert found["jobs"] == {"running": 3, "queued": 4}
    assert found["received_total"] == {"": 21}
    assert found["requests_total"] == {
        "ignored": 5,
        "rejected": 6,
        "accepted": 10,
    }
    assert found["rejections_total"] == {"busy": 1, "duplicate": 3, "other": 2}
    assert found["endings_total"] == {"done": 7, "error": 2}
    assert found["task_requests_total"] == {
        "rejected,ping": 6,
        "accepted,ping": 10,
        f"rejected,{NASTY}": 0,
        f"accepted,{NASTY}": 0,
    }
    assert found["task_endings_total"]["error,ping"] == 2
    assert found["task_rejections_total"]["other,ping"] == 2
    assert found["task_duration_seconds_count"] == {"ping": 7}
    assert found["task_duration_seconds_sum"] == {"ping": 9000.5}
    buckets = found["task_duration_seconds_bucket"]
    assert list(buckets.values()) == [1, *([3] * (len(BUCKETS) - 1)), 7]
    bounds = [float(labels.partition(",")[0]) for labels in buckets]
    assert bounds == [*BUCKETS, float("inf")]


def test_sums_are_what_they_seem() -> None:
    found = samples(prometheus.text(snapshot()).decode())
    assert sum(found["requests_total"].values()) == 21
    assert sum(found["rejections_total"].values()) == 6


def test_conventions() -> None:
    text = prometheus.text(snapshot()).decode()
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("ngcp_task_agent_")
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(s.name.endswith("_total") for s in family.samples)


def test_the_library_is_loaded_only_for_a_file() -> None:
    script = (
        "import sys, ngcp_task_agent.daemon.agent\n"
        "print([m for m in sys.modules if m.startswith('prometheus')])"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.check_output(command) == b"[]\n"


# How it is written.


class Bench:
    """A metrics file, and what it is to say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "agent.prom"
        self.queued = 0
        self.file = MetricsFile(self._take)

    def _take(self, is_up: bool) -> Snapshot:
        return snapshot(is_up=is_up, queued=self.queued)

    def move(self, path: Any = "") -> None:
        self.file.move(None if path is None else str(path or self.path))

    def says(self, name: str = "up", labels: str = "") -> float:
        return samples(self.path.read_text())[name][labels]

    def is_written(self) -> bool:
        return self.path.exists() and self.path.read_text() != ""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(metrics, "INTERVAL", 0.05)
    folder = tmp_path / "metrics"
    folder.mkdir()
    return Bench(folder)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while any(t.name == "metrics" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_at_once_and_again(bench: Bench) -> None:
    bench.move()
    await until(bench.is_written)
    assert bench.says("jobs", "queued") == 0
    bench.queued = 7
    await until(lambda: bench.says("jobs", "queued") == 7)
    await bench.file.stop()
    assert bench.says() == 0  # at the stop
    assert [path.name for path in bench.folder.iterdir()] == ["agent.prom"]


async def test_everybody_can_read_it(bench: Bench) -> None:
    before = os.umask(0o077)
    try:
        bench.move()
        await until(bench.is_written)
        await bench.file.stop()
    finally:
        os.umask(before)
    assert bench.path.stat().st_mode & 0o777 == 0o644


async def test_a_reader_never_sees_half_of_it(bench: Bench) -> None:
    bench.move()
    await until(bench.is_written)
    for queued in range(200):
        bench.queued = queued
        assert bench.says() == 1
        await asyncio.sleep(0.002)
    await bench.file.stop()


async def test_a_link_is_replaced_not_followed(
    bench: Bench, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    bench.path.symlink_to(target)
    bench.move()
    await until(lambda: not bench.path.is_symlink())
    await bench.file.stop()
    assert target.read_text() == "mine"


async def test_moved(bench: Bench) -> None:
    bench.move()
    await until(bench.is_written)
    before, bench.path = bench.path, bench.folder / "new.prom"
    bench.move()
    await until(bench.is_written)
    assert not before.exists()
    await bench.file.stop()
    assert [path.name for path in bench.folder.iterdir()] == ["new.prom"]


async def test_removed(bench: Bench) -> None:
    bench.move()
    await until(bench.is_written)
    bench.move(None)
    await until(lambda: not bench.path.exists())
    await bench.file.stop()
    assert not bench.path.exists()


async def test_moved_while_it_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    stalling(monkeypatch, go.wait)
    bench.move()
    before, bench.path = bench.path, bench.folder / "new.prom"
    bench.move()
    go.set()
    await until(bench.is_written)
    await until(lambda: not before.exists())
    bench.move(None)
    await until(lambda: not bench.path.exists())
    await bench.file.stop()


async def test_a_file_of_others_is_not_removed(bench: Bench) -> None:
    """Only one that this agent has written."""
    mine = bench.folder / "mine"
    mine.mkdir()
    bench.move(mine)
    await asyncio.sleep(0)
    bench.move(None)
    await bench.file.stop()
    assert mine.is_dir()


async def test_what_is_no_file_stays(
    bench: Bench, journal_records: Records
) -> None:
    """As root, a path such as /dev/null would end the system's own."""
    os.mkfifo(bench.path)
    bench.move()
    await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
    assert bench.path.is_fifo()
    bench.move(None)
    await bench.file.stop()
    assert bench.path.is_fifo()
    assert [path.name for path in bench.folder.iterdir()] == ["agent.prom"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_has_taken_the_place_of_the_old_one_stays(
    make: Callable[[Path], None], bench: Bench, journal_records: Records
) -> None:
    bench.move()
    await until(bench.is_written)
    before, bench.path = bench.path, bench.folder / "new.prom"
    before.unlink()
    make(before)
    bench.move()
    await until(bench.is_written)
    await bench.file.stop()
    assert before.is_fifo() or before.is_dir()
    # The old file is gone.
    assert not journal_records.of(journal.METRICS_NOT_WRITTEN)


async def test_none_at_all(bench: Bench) -> None:
    bench.move(None)
    await bench.file.stop()
    assert not list(bench.folder.iterdir())


# What can be wrong.


async def test_said_once_and_when_it_is_over(
    bench: Bench, journal_records: Records
) -> None:
    shutil.rmtree(bench.folder)
    bench.move()
    await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
    await asyncio.sleep(0.3)  # several attempts
    (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
    assert text == (
        f"metrics cannot be written to {bench.path}: No such file or "
        "directory; create its folder"
    )
    assert not journal_records.of(journal.METRICS_WRITTEN)
    bench.folder.mkdir()
    await until(bench.is_written)
    await until(lambda: journal_records.of(journal.METRICS_WRITTEN))
    await asyncio.sleep(0.1)
    await bench.file.stop()
    assert len(journal_records.of(journal.METRICS_WRITTEN)) == 1
    assert len(journal_records.of(journal.METRICS_NOT_WRITTEN)) == 1


FAILURES: List[Any] = [
    pytest.param(OSError(28, "No space left"), "make room", id="full"),
    pytest.param(OSError(13, "Permission denied"), "user write", id="rights"),
    pytest.param(OSError(5, "Input/output error"), "check the disk", id="io"),
    pytest.param(ValueError("x"), "ValueError('x')", id="bug"),
]


@pytest.mark.parametrize(("error", "what"), FAILURES)
async def test_failure(
    error: Exception,
    what: str,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    bench.move()
    await until(bench.is_written)
    before = bench.path.read_text()

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
        (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
        assert what in text
        assert bench.path.read_text() == before
    await until(lambda: journal_records.of(journal.METRICS_WRITTEN))
    await bench.file.stop()
    # Nothing half written is left.
    assert [path.name for path in bench.folder.iterdir()] == ["agent.prom"]


async def test_removed_as_soon_as_it_can_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    bench.move()
    await until(bench.is_written)

    def fail(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        bench.move(None)
        await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
        await asyncio.sleep(0.1)
        (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
        assert text == (
            f"the old metrics_file {bench.path} cannot be removed: Operation "
            "not permitted; let the agent's user write to its folder"
        )
    await until(lambda: not bench.path.exists())
    await bench.file.stop()
    assert not bench.path.exists()


async def test_only_the_old_one_cannot_be_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    bench.move()
    await until(bench.is_written)
    before, bench.path = bench.path, bench.folder / "new.prom"

    def fail(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        bench.move()
        await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
        await until(bench.is_written)
    (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
    assert text == (
        f"the old metrics_file {before} cannot be removed: Read-only file "
        "system; remove it yourself"
    )
    await until(lambda: not before.exists())
    await bench.file.stop()
    # The new one could always be written.
    assert not journal_records.of(journal.METRICS_WRITTEN)


async def test_a_disk_that_hangs_is_the_old_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    go = threading.Event()
    stalling(monkeypatch, go.wait)
    try:
        bench.move()
        before, bench.path = bench.path, bench.folder / "new.prom"
        bench.move()
        await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
        (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
        assert f"metrics cannot be written to {before}: writing takes" in text
    finally:
        go.set()
    await until(bench.is_written)
    await bench.file.stop()


async def test_without_the_library(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    monkeypatch.setitem(sys.modules, "ngcp_task_agent.daemon.prometheus", None)
    bench.move()
    await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
    await bench.file.stop()
    (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
    assert "install python3-prometheus-client" in text
    assert not list(bench.folder.iterdir())


async def test_no_thread_can_be_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        bench.move()
        assert journal_records.of(journal.METRICS_NOT_WRITTEN)
    await until(bench.is_written)
    await bench.file.stop()


def stalling(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]
) -> None:
    """Let each write wait just before its end, and soon be too long."""
    monkeypatch.setattr(metrics, "LONGEST", 0.05)
    replace = os.replace

    def stall(*names: Any) -> None:
        wait()
        replace(*names)

    monkeypatch.setattr(os, "replace", stall)


async def test_a_disk_that_hangs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    """One thread waits for it, and neither the loop nor the stop."""
    go = threading.Event()
    stalling(monkeypatch, go.wait)
    monkeypatch.setattr(metrics, "AT_THE_STOP", 0.05)
    try:
        bench.move()
        await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
        await asyncio.sleep(0.3)
        bench.move()
        threads = [t for t in threading.enumerate() if t.name == "metrics"]
        assert [thread.daemon for thread in threads] == [True]
        await bench.file.stop()
        (text,) = journal_records.texts(journal.METRICS_NOT_WRITTEN)
        assert "writing takes longer than 0.05 s; check the disk" in text
        assert not bench.path.exists()
    finally:
        go.set()
    await until(bench.is_written)


async def test_a_disk_that_hung(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    go = threading.Event()
    stalling(monkeypatch, go.wait)
    bench.move()
    await until(lambda: journal_records.of(journal.METRICS_NOT_WRITTEN))
    bench.queued = 9
    go.set()
    await until(lambda: journal_records.of(journal.METRICS_WRITTEN))
    await until(lambda: bench.says("jobs", "queued") == 9)
    await bench.file.stop()
    assert bench.says() == 0
