"""The broker ``agent``: what it answers about the agent."""

from __future__ import annotations

import json
from datetime import date
from typing import Any, Dict, Optional

import pytest

from ngcp_task_agent import __version__
from ngcp_task_agent.brokers.agent import AgentBroker
from ngcp_task_agent.brokers.base import JobFacts, Result, TaskFacts
from ngcp_task_agent.errors import CannotCancel, Rejected
from tests.unit.fakes import FakeView, request

UUID = "cb88ac76-f348-4614-866f-43877b893e7e"
RUNS = JobFacts(UUID, "backup", "web01", "running", 1.5, 42)
WAITS = JobFacts(UUID.replace("cb", "aa"), "backup", "w", "queued", 2.5, None)
BACKUP = TaskFacts(
    "backup", "Saves it", "command", None, False, 300.0, 8, 1, 1
)


def view() -> FakeView:
    seen = FakeView()
    seen.facts, seen.rows = [BACKUP], [RUNS, WAITS]
    return seen


async def answer(
    kind: str, seen: Optional[FakeView] = None, data: Any = None
) -> Result:
    broker = AgentBroker({"answer": kind})
    broker.start(seen or view())
    return await broker.prepare(request(data, src="web\x1b01")).run()


async def report(kind: str, seen: Optional[FakeView] = None) -> Dict[str, Any]:
    result = await answer(kind, seen)
    assert not result.error
    found = json.loads(result.data)
    assert isinstance(found, dict)
    return found


async def test_ping() -> None:
    assert await report("ping") == {
        "version": __version__,
        "node": {
            "name": "sp1",
            "aliases": ["sp1.example.org"],
            "roles": [],
            "state": "active",
            "status": "online",
            "labels": {},
        },
        "uptime": 12.346,
        "running": 1,
        "queued": 1,
    }


async def test_describe() -> None:
    described = await report("describe")
    assert described.pop("tasks") == [BACKUP._asdict()]
    assert described == await report("ping")


async def test_describe_a_schema_with_what_json_has_not() -> None:
    seen = view()
    schema = {"const": date(2026, 11, 27)}
    seen.facts = [BACKUP._replace(data_schema=schema)]
    (task,) = (await report("describe", seen))["tasks"]
    assert task["data_schema"] == {"const": "2026-11-27"}


async def test_jobs() -> None:
    jobs = [RUNS._asdict(), WAITS._asdict()]
    assert await report("jobs") == {"jobs": jobs}
    assert await report("jobs", FakeView()) == {"jobs": []}


@pytest.mark.parametrize(("rows", "number"), [([RUNS], 1), ([], 0)])
async def test_cancel(rows: Any, number: int) -> None:
    seen = view()
    seen.rows = rows
    result = await answer("cancel", seen, {"ref": UUID, "more": 1})
    assert result == Result(f'{{"cancelled": {number}}}')
    # Who wants it is shown in the journal and to a client.
    assert seen.cancelled == [(UUID, "web\\x1b01")]


async def test_cancel_what_does_not_end() -> None:
    class Stubborn(FakeView):
        async def cancel(self, uuid: str, by: str) -> bool:
            raise CannotCancel("it does not end")

    result = await answer("cancel", Stubborn(), {"ref": UUID})
    assert result == Result(error="it does not end")


@pytest.mark.parametrize(
    "data",
    [
        None,
        UUID,
        [UUID],
        {},
        {"ref": None},
        {"ref": 1},
        {"ref": ""},
        {"ref": f"{UUID}0"},
        {"ref": f"{UUID}\n"},
        {"ref": UUID.replace("-", "")},
    ],
    ids=str,
)
async def test_cancel_nothing_named(data: Any) -> None:
    with pytest.raises(Rejected, match="ref"):
        await answer("cancel", data=data)
