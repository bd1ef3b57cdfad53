"""What brokers see of the agent: nothing of other channels."""

from __future__ import annotations

import asyncio
import collections
from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent import __version__
from ngcp_task_agent.brokers.base import Result, TaskView
from ngcp_task_agent.config.models import TaskConfig
from ngcp_task_agent.daemon.channel_view import ChannelView
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.requests import jobs as jobs_module
from ngcp_task_agent.requests.jobs import Jobs
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.task import Task
from tests.unit.fakes import (
    FakeBackend,
    FakeBroker,
    FakeWork,
    agent_limits,
    identity,
    request,
    until,
)


class Bench:
    """Jobs of several channels, and a view of each."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.limits = agent_limits()
        self.backend = FakeBackend()
        self.brokers: List[FakeBroker] = []
        self.tasks: List[Task] = []

    def view(self, backend: str, channel: str) -> ChannelView:
        return ChannelView(
            (backend, channel),
            Path("/etc/x"),
            lambda: identity("sp1"),
            self.jobs,
            0.0,
        )

    def add(
        self, view: ChannelView, backend: str, channel: str, name: str
    ) -> Task:
        config = TaskConfig(
            Path("x.yml"), name, backend, channel, "fake", max_running=1
        )
        broker = FakeBroker()
        task = Task(config, broker, self.limits, self.jobs)
        view.set_tasks([(config, task)])
        self.brokers.append(broker)
        self.tasks.append(task)
        return task

    def take(self, task: Task) -> Request:
        asked = request()
        reply = Reply(
            self.backend,
            "feedback",
            asked.origin,
            "sp1",
            1 << 20,
            collections.Counter(),
        )
        task.take(asked, reply)
        return asked

    async def end(self) -> None:
        while len(self.jobs):
            for broker in self.brokers:
                for work in broker.running:
                    work.end.set_result(Result())
            await asyncio.sleep(0)
        for task in self.tasks:
            await task.finished()


async def test_only_its_own_channel() -> None:
    bench = Bench()
    places = [("one", "a"), ("one", "b"), ("two", "a")]
    views = [bench.view(*place) for place in places]
    tasks = [
        bench.add(view, *place, "t") for view, place in zip(views, places)
    ]
    asked = [bench.take(tasks[0]), bench.take(tasks[0]), bench.take(tasks[1])]
    await until(lambda: all(b.running for b in bench.brokers[:2]))
    assert [v.counts() for v in views[1:]] == [(1, 0), (0, 0)]
    await until(lambda: views[0].counts() == (1, 1))
    first, second = views[0].jobs()
    assert (first.uuid, second.uuid) == (asked[0].uuid, asked[1].uuid)
    assert (first.state, second.state) == ("running", "queued")
    assert (first.task, first.src, first.pid) == ("t", "client", None)
    assert [*views[2].jobs()] == []
    assert [*views[0].tasks()] == [
        TaskView("t", "", "fake", None, False, None, 1, 1, 1)
    ]
    for view in views[1:]:
        assert await view.cancel(asked[0].uuid, "me") == 0
    assert await views[0].cancel(asked[1].uuid, "me") == 1
    assert await views[0].cancel(asked[0].uuid, "me") == 1
    assert await views[0].cancel(asked[0].uuid, "me") == 0
    await bench.end()


async def test_what_it_says_of_the_agent() -> None:
    view = Bench().view("one", "a")
    assert (view.version, view.folder) == (__version__, Path("/etc/x"))
    assert view.identity() == identity("sp1")
    assert view.uptime > 0
    assert view.counts() == (0, 0)
    before = view.generation
    view.set_tasks([])
    assert view.generation != before


class StubbornWork(FakeWork):
    def stop(self) -> None:
        pass


class StubbornBroker(FakeBroker):
    """Its work ignores stop(), and that its runner is cancelled."""

    def prepare(self, request: Request) -> Any:
        work = StubbornWork()
        self.works.append(work)
        work.run = self._run(work)  # type: ignore[method-assign]
        return work

    def _run(self, work: FakeWork) -> Any:
        async def run() -> Result:
            work.begun = True
            while not work.end.done():
                try:
                    await asyncio.shield(work.end)
                except asyncio.CancelledError:
                    continue
            return Result()

        return run


async def test_work_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "GRACE", 0.05)
    monkeypatch.setattr(jobs_module, "END", 0.05)
    bench = Bench()
    view = bench.view("one", "a")
    bench.add(view, "one", "a", "t")
    broker = bench.brokers[0] = StubbornBroker()
    config = TaskConfig(Path("x.yml"), "t", "one", "a", "fake")
    bench.tasks[0] = Task(config, broker, bench.limits, bench.jobs)
    asked = bench.take(bench.tasks[0])
    await until(lambda: broker.running)
    with pytest.raises(TimeoutError):
        await view.cancel(asked.uuid, "me")
    broker.works[0].end.set_result(Result())
    await bench.tasks[0].finished()
