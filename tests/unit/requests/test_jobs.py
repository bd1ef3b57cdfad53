"""The register of jobs, and how a user ends one."""

from __future__ import annotations

import asyncio
import collections
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from ngcp_task_agent.brokers.base import Broker, Result
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.errors import CannotCancel
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.requests import jobs as jobs_module
from ngcp_task_agent.requests.jobs import Job, Jobs
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.task import Task
from tests.unit.fakes import (
    CHANNEL,
    FakeBackend,
    FakeBroker,
    FakeWork,
    agent_limits,
    request,
    task_config,
    until,
)

UUID = "cb88ac76-f348-4614-866f-43877b893e7e"


class Bench:
    """A task with room for one running request, and its jobs."""

    def __init__(self, broker: Optional[Broker] = None) -> None:
        self.broker: Any = broker or FakeBroker()
        self.backend = FakeBackend()
        self.jobs = Jobs()
        self.limits = agent_limits()
        config = task_config(max_running=1, max_queued=9)
        self.task = Task(config, self.broker, self.limits, self.jobs)

    def take(self, **fields: Any) -> Request:
        asked = request(**fields)
        reply = Reply(
            self.backend,
            "feedback",
            asked.origin,
            "sp1",
            1 << 20,
            collections.Counter(),
        )
        self.task.take(asked, reply)
        return asked

    async def run(self, **fields: Any) -> Request:
        """Take a request; return it when it runs."""
        asked = self.take(**fields)
        (job,) = self.jobs.find(asked.uuid)
        await until(lambda: job.is_running)
        return asked

    async def cancel(self, asked: Request, by: str = "root") -> bool:
        try:
            await self.jobs.cancel(self.jobs.find(asked.uuid), by)
        except CannotCancel:
            return False
        return True

    def ending(self, asked: Request) -> Dict[str, Any]:
        """Return the one ending of a request."""
        accepted, ending = (
            response
            for response in self.backend.responses()
            if response["ref"] == asked.uuid
        )
        assert accepted["status"] == "accepted"
        return dict(ending)

    async def check_room(self) -> None:
        """Check that nothing is left, and that the task still works."""
        await self.task.finished()
        assert not list(self.jobs)
        assert self.limits.slots.taken == self.task.running == 0
        again = await self.run()
        self.broker.works[-1].end.set_result(Result(data="again"))
        await self.task.finished()
        assert self.ending(again)["data"] == "again"


async def test_what_waits_and_what_runs() -> None:
    bench = Bench()
    assert (len(bench.jobs), bench.jobs.oldest) == (0, None)
    begin = time.time()
    first = await bench.run(src="web1")
    second = bench.take(src="web2")
    running, queued = bench.jobs
    assert (running.request, queued.request) == (first, second)
    assert running.place == queued.place == ("fake", CHANNEL, "ping")
    assert (running.state, queued.state) == ("running", "queued")
    for job in bench.jobs:
        assert begin - 0.1 <= job.began <= time.time()
        assert job.age >= 0
        assert job.pid is None
    assert bench.jobs.oldest is running
    waited = queued.began
    bench.broker.works[0].end.set_result(Result())
    await until(lambda: queued.is_running)
    assert list(bench.jobs) == [queued]
    # It counts from when it began to run.
    assert queued.began >= waited
    assert bench.jobs.oldest is queued
    bench.broker.works[1].end.set_result(Result())
    await bench.jobs.finished()
    assert (len(bench.jobs), bench.jobs.oldest) == (0, None)


async def test_the_process_of_a_command() -> None:
    bench = Bench(CommandBroker({"run": "sleep", "args": "60"}))
    asked = await bench.run()
    (job,) = bench.jobs
    pid = await until(lambda: job.pid)
    comm = Path(f"/proc/{pid}/comm")
    # The kernel renames it a little after it has let the agent go on.
    await until(lambda: comm.read_text() == "sleep\n")
    assert await bench.cancel(asked)
    assert job.pid is None


@pytest.mark.parametrize(
    "text", [UUID, UUID.upper(), UUID.replace("-", ""), f"{UUID[:9]}-{UUID}"]
)
async def test_find_compares_uuids(text: str) -> None:
    bench = Bench()
    asked = bench.take(uuid=UUID.title())
    bench.take()
    is_it = len(text) <= len(UUID)
    found = [job.request for job in bench.jobs.find(text)]
    assert found == ([asked] if is_it else [])
    bench.jobs.abort()
    await bench.jobs.finished()


async def test_cancel_what_runs() -> None:
    bench = Bench()
    asked = await bench.run()
    assert await bench.cancel(asked, "alice")
    assert bench.broker.works[0].stopped
    ending = bench.ending(asked)
    assert ending["status"] == "error"
    assert ending["reason"] == "cancelled by alice"
    await bench.check_room()


async def test_cancel_a_command_keeps_its_output() -> None:
    bench = Bench(
        CommandBroker({"run": "sh", "args": ["-c", "echo so far; sleep 60"]})
    )
    asked = await bench.run()
    (job,) = bench.jobs
    pid = await until(lambda: job.pid)
    await until(lambda: _is_called(pid, b"sleep") or _has_child(pid))
    assert await bench.cancel(asked)
    ending = bench.ending(asked)
    assert (ending["status"], ending["data"]) == ("error", "so far\n")
    assert ending["reason"] == "cancelled by root"


def _is_called(pid: int, name: bytes) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as words:
        return words.read().startswith(name)


def _has_child(pid: int) -> bool:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return bool(children.read())


async def test_cancel_what_waits() -> None:
    bench = Bench()
    first = await bench.run()
    waits, stays = bench.take(), bench.take()
    await asyncio.sleep(0)
    assert await bench.cancel(waits)
    ending = bench.ending(waits)
    assert ending["status"] == "error"
    assert ending["reason"] == "cancelled by root; nothing was run"
    assert not bench.broker.works[1].begun
    bench.broker.works[0].end.set_result(Result(data="out"))
    await until(lambda: bench.broker.works[2].begun)
    bench.broker.works[2].end.set_result(Result(data="out"))
    await bench.task.finished()
    for asked in (first, stays):
        assert bench.ending(asked)["status"] == "done"
    await bench.check_room()


@pytest.mark.parametrize("rounds", range(6))
async def test_cancel_at_any_moment_of_the_start(rounds: int) -> None:
    """One ending, whether it waits, gets its turn, or begins."""
    bench = Bench()
    first = await bench.run()
    asked = bench.take()
    if rounds % 2:
        bench.broker.works[0].end.set_result(Result())
    for _ in range(rounds):
        await asyncio.sleep(0)
    assert await bench.cancel(asked, "root")
    ending = bench.ending(asked)
    assert ending["status"] == "error"
    begun = bench.broker.works[1].begun
    nothing = "" if begun else "; nothing was run"
    assert ending["reason"] == f"cancelled by root{nothing}"
    if not rounds % 2:
        bench.broker.works[0].end.set_result(Result())
    await bench.task.finished()
    assert bench.ending(first)["status"] == "done"
    await bench.check_room()


OWN = [
    pytest.param(Result(data="out"), "done", "", id="done"),
    pytest.param(
        Result(error="broken", by_itself=True), "error", "broken", id="error"
    ),
]


@pytest.mark.parametrize(("result", "status", "reason"), OWN)
async def test_work_that_ends_at_that_moment_has_its_own_ending(
    result: Result, status: str, reason: str
) -> None:
    bench = Bench()
    asked = await bench.run()
    bench.broker.works[0].end.set_result(result)
    assert await bench.cancel(asked)
    ending = bench.ending(asked)
    assert (ending["status"], ending["reason"]) == (status, reason)
    await bench.check_room()


async def test_a_command_that_has_ended_has_its_own_ending(
    tmp_path: Path,
) -> None:
    """It is cancelled before its end was noticed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ["-c", 'read line <"$0"; exit 3', str(fifo)]
    bench = Bench(CommandBroker({"run": "sh", "args": words}))
    asked = await bench.run()
    (job,) = bench.jobs
    pid = await until(lambda: job.pid)
    fifo.write_text("\n")
    while not _is_zombie(pid):
        time.sleep(0.001)
    assert await bench.cancel(asked)
    assert bench.ending(asked)["reason"] == (
        "the command ended with exit status 3"
    )


def _is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(") ")[2][0] == "Z"


class Deaf(FakeBroker):
    """Its work ignores stop()."""

    def prepare(self, request: Request) -> FakeWork:
        work = super().prepare(request)
        work.stop = lambda: None  # type: ignore[method-assign]
        return work


async def test_work_that_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "GRACE", 0.01)
    bench = Bench(Deaf())
    asked = await bench.run()
    assert await bench.cancel(asked)
    ending = bench.ending(asked)
    assert ending["reason"] == "cancelled by root"
    await bench.check_room()


class Stubborn(FakeBroker):
    """Its work ignores being cancelled, too."""

    def prepare(self, request: Request) -> FakeWork:
        work = super().prepare(request)

        async def run() -> Result:
            work.begun = True
            while True:
                try:
                    return await asyncio.shield(work.end)
                except asyncio.CancelledError:
                    pass

        work.run = run  # type: ignore[method-assign]
        work.stop = lambda: None  # type: ignore[method-assign]
        return work


async def test_work_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "GRACE", 0.01)
    monkeypatch.setattr(jobs_module, "END", 0.01)
    bench = Bench(Stubborn())
    asked = await bench.run()
    assert not await bench.cancel(asked)
    bench.broker.works[0].end.set_result(Result(data="late"))
    await bench.task.finished()
    assert bench.ending(asked)["data"] == "late"


async def test_the_first_to_cancel_is_named() -> None:
    bench = Bench()
    asked = await bench.run()
    both = await asyncio.gather(
        bench.cancel(asked, "alice"), bench.cancel(asked, "bob")
    )
    assert both == [True, True]
    assert bench.ending(asked)["reason"] == "cancelled by alice"


async def test_cancel_nothing() -> None:
    bench = Bench()
    assert bench.jobs.find(UUID) == []
    await bench.jobs.cancel([], "root")


async def test_all_jobs_of_a_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request can come from two control channels."""
    bench = Bench()
    first = await bench.run(uuid=UUID)
    second = bench.take(uuid=UUID)
    found: List[Job] = bench.jobs.find(UUID)
    assert [job.request for job in found] == [first, second]
    await bench.jobs.cancel(found, "root")
    assert bench.backend.statuses() == ["accepted"] * 2 + ["error"] * 2


async def test_cancelled_while_a_large_answer_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has ended: its answer is not hurried."""
    monkeypatch.setattr(jobs_module, "GRACE", 0.01)
    bench = Bench(FakeBroker(result=Result("x" * 100_000)))
    left, events = asyncio.Event(), []

    async def send_large(
        address: str, encode: Any, size: int, ref: Optional[str]
    ) -> None:
        events.append("begun")
        await left.wait()
        bench.backend.send(address, encode(), ref)

    bench.backend.send_large = send_large  # type: ignore[method-assign]
    asked = bench.take()
    await until(lambda: events)
    (job,) = bench.jobs
    assert (job.state, job.pid) == ("running", None)
    assert await bench.cancel(asked)
    assert len(bench.jobs) == 1
    left.set()
    await bench.task.finished()
    assert bench.ending(asked)["status"] == "done"
