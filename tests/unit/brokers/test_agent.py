"""What the agent says of itself, and how it ends a job."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Dict, Iterator, List

import pytest

from ngcp_task_agent.brokers import agent as module
from ngcp_task_agent.brokers.agent import AgentBroker
from ngcp_task_agent.brokers.base import JobView, TaskView
from ngcp_task_agent.errors import Rejected
from tests.unit.fakes import FakeAgentView, request

UUID = "cb88ac76-f348-4614-866f-43877b893e7e"
ABOUT = {
    "version": "1.2.3",
    "node": {
        "name": "SP1",
        "aliases": ["alias"],
        "roles": ["lb"],
        "state": "active",
        "status": "online",
        "labels": {"site": "here"},
    },
    "uptime": 5.0,
    "running": 3,
    "queued": 2,
}


def broker(answer: str, view: FakeAgentView) -> AgentBroker:
    made = AgentBroker({"answer": answer})
    made.start(view)
    return made


async def answered(asked: AgentBroker, data: Any = None) -> Dict[str, Any]:
    result = await asked.prepare(request(data)).run()
    assert not result.error
    assert isinstance(result.data, str)
    found: Dict[str, Any] = json.loads(result.data)
    return found


def test_it_takes_no_slot() -> None:
    assert not AgentBroker.takes_slot


async def test_ping() -> None:
    assert await answered(broker("ping", FakeAgentView())) == ABOUT


@pytest.mark.parametrize("data", [None, "x", [1], {"ref": UUID}, 5])
async def test_data_that_nothing_uses(data: Any) -> None:
    assert await answered(broker("ping", FakeAgentView()), data) == ABOUT


async def test_describe() -> None:
    view = FakeAgentView()
    assert await answered(broker("describe", view)) == {**ABOUT, "tasks": []}
    task = TaskView("t", "\ud800\u00e4", "command", True, True, 0, 8, 1, 2)
    view.shown_tasks = [task, task]
    shown = await answered(broker("describe", view))
    assert shown == {**ABOUT, "tasks": [task._asdict(), task._asdict()]}
    assert [*shown["tasks"][0]] == [
        *("name", "description", "broker", "data_schema", "extra_args"),
        *("timeout", "max_running", "running", "queued"),
    ]


async def test_jobs() -> None:
    view = FakeAgentView()
    view.shown_jobs = [
        JobView(UUID, "t", "s", "running", 1.23456, 7),
        JobView(UUID, "t", "s", "queued", 2.0, None),
    ]
    one = {"uuid": UUID, "task": "t", "src": "s"}
    assert await answered(broker("jobs", view)) == {
        "jobs": [
            {**one, "state": "running", "since": 1.235, "pid": 7},
            {**one, "state": "queued", "since": 2.0},
        ]
    }


class Many(FakeAgentView):
    """Has many tasks; counts how often they are read."""

    reads = 0

    def tasks(self) -> Any:
        self.reads += 1
        return self._made()

    def _made(self) -> Iterator[TaskView]:
        for number in range(5000):
            yield TaskView(f"t{number}", "", "b", None, False, None, 8, 0, 0)


async def test_a_long_answer_lets_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SLICE", 0.0)
    asked = broker("describe", Many())
    step = asyncio.ensure_future(answered(asked))
    rounds = 0
    while not step.done():
        rounds += 1
        await asyncio.sleep(0)
    assert len(step.result()["tasks"]) == 5000
    assert rounds > 1000


async def test_a_long_answer_is_given_again_until_a_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SLICE", 0.0001)
    monkeypatch.setattr(module, "_KEEP", 1_000_000)
    view = Many()
    asked = broker("describe", view)
    first = await answered(asked)
    assert await answered(asked) == first
    read = view.reads
    view.generation += 1
    await answered(asked)
    assert view.reads > read


async def test_an_old_answer_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SLICE", 0.0001)
    monkeypatch.setattr(module, "_KEEP", 0)
    view = Many()
    asked = broker("describe", view)
    for reads in (1, 2):
        await answered(asked)
        assert view.reads == reads


async def test_cancel() -> None:
    view = FakeAgentView()
    assert await answered(broker("cancel", view), {"ref": UUID}) == {
        "cancelled": 0
    }
    view.ended = asyncio.get_running_loop().create_future()
    view.ended.set_result(2)
    work = broker("cancel", view).prepare(
        request({"ref": UUID, "more": 1}, src="a\x1b\n" + "\u202e" * 250)
    )
    assert (await work.run()).data == '{"cancelled": 1}'
    (_, (uuid, by)) = view.cancelled
    assert uuid == UUID
    assert by.startswith(r"a\x1b\n\u202e")
    assert by.isprintable()
    assert len(by.encode()) <= 300


WRONG: List[Any] = [
    *(None, {}, [], "", 0, True, UUID, [UUID], json.dumps({"ref": UUID})),
    *({"ref": wrong} for wrong in (None, 1, [], {}, "", "x" * 36, UUID[1:])),
    *({"ref": wrong} for wrong in (UUID + "\n", UUID.replace("-", ""))),
    {"REF": UUID},
]


@pytest.mark.parametrize("data", WRONG)
async def test_cancel_of_what_is_no_uuid(data: Any) -> None:
    view = FakeAgentView()
    with pytest.raises(Rejected, match=r'data must be an object such as \{"r'):
        broker("cancel", view).prepare(request(data))
    assert not view.cancelled


@pytest.mark.parametrize("answer", ["ping", "describe", "jobs", "cancel"])
async def test_a_large_request(answer: str) -> None:
    asked = broker(answer, FakeAgentView())
    large = {"ref": UUID, "x": "x" * module.LONGEST}
    with pytest.raises(Rejected, match="more than 32768 bytes"):
        asked.prepare(request(large))


async def test_work_that_does_not_end() -> None:
    view = FakeAgentView()
    view.ended = asyncio.get_running_loop().create_future()
    view.ended.set_exception(TimeoutError())
    work = broker("cancel", view).prepare(request({"ref": UUID}))
    assert f"the work for request '{UUID}' does not end" in (
        (await work.run()).error
    )


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_cancel_is_stopped(is_early: bool) -> None:
    view = FakeAgentView()
    view.ended = asyncio.get_running_loop().create_future()
    work = broker("cancel", view).prepare(request({"ref": UUID}))
    if is_early:
        work.stop()
    step = asyncio.ensure_future(work.run())
    await asyncio.sleep(0)
    work.stop()
    assert (await step).error == "the agent is stopping"
