"""Jobs of units that exist already."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import datetime, timezone
from typing import Any, AsyncIterator, Dict, List
from unittest.mock import MagicMock

import pytest

from ngcp_task_agent.brokers.base import Result, Work
from ngcp_task_agent.brokers.systemd import (
    SystemdBroker,
    journal_lines,
    pid1,
    unit,
)
from ngcp_task_agent.bus import bus as bus_module
from ngcp_task_agent.bus.bus import system_bus
from tests.fake_systemd import FakeSystemd
from tests.unit.fakes import FakeView, request, until

pytestmark = pytest.mark.usefixtures("quick")
ACTIVE = {"ActiveState": "active", "SubState": "running"}
FAILED = {
    "ActiveState": "failed",
    "SubState": "failed",
    "Result": "exit-code",
    "ExecMainCode": 1,
    "ExecMainStatus": 3,
}
INACTIVE = {"ActiveState": "inactive", "SubState": "dead"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "RETRY", 0.05)
    monkeypatch.setattr(unit, "SETTLE", 0.05)


@contextlib.asynccontextmanager
async def bus() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await system_bus().stop()


def prepare(name: str, verb: str, **options: Any) -> Work:
    broker = SystemdBroker({"unit": name, "verb": verb, **options})
    broker.start(FakeView())
    return broker.prepare(request())


async def run(name: str, verb: str, **options: Any) -> Result:
    async with bus():
        return await prepare(name, verb, **options).run()


DONE: List[Any] = [
    pytest.param("start", "StartUnit", {}, ACTIVE, "active (running)"),
    pytest.param("stop", "StopUnit", ACTIVE, INACTIVE, "inactive (dead)"),
    pytest.param("stop", "StopUnit", ACTIVE, FAILED, "failed (failed)"),
    pytest.param("restart", "RestartUnit", ACTIVE, {}, "active (running)"),
    pytest.param("reload", "ReloadUnit", ACTIVE, {}, "active (running)"),
    pytest.param(
        "reload-or-restart",
        "ReloadOrRestartUnit",
        ACTIVE,
        {},
        "active (running)",
    ),
    pytest.param(
        "try-restart", "TryRestartUnit", ACTIVE, {}, "active (running)"
    ),
    pytest.param("try-restart", "TryRestartUnit", {}, {}, "inactive (dead)"),
    pytest.param(
        "start", "StartUnit", {"Type": "oneshot"}, INACTIVE, "inactive (dead)"
    ),
]


@pytest.mark.parametrize(("verb", "member", "before", "then", "data"), DONE)
async def test_done(
    systemd: FakeSystemd,
    verb: str,
    member: str,
    before: Dict[str, Any],
    then: Dict[str, Any],
    data: str,
) -> None:
    systemd.has(**{"web.service": {**before, member: {"then": then}}})
    assert await run("web", verb) == Result(data)
    assert systemd.asked(member) == [["web.service", "replace"]]


FAILURES: List[Any] = [
    pytest.param(
        "start",
        {"then": FAILED},
        "the unit does not run; it is failed (failed), result exit-code, exit "
        "status 3",
        id="dies-at-once",
    ),
    pytest.param(
        "start",
        {"then": INACTIVE},
        "the unit does not run; it is inactive (dead)",
        id="ends-at-once",
    ),
    pytest.param(
        "start",
        {"then": {**INACTIVE, "ConditionResult": False}},
        "a condition of the unit does not hold; it is inactive (dead)",
        id="condition",
    ),
    pytest.param(
        "start",
        {"then": {"ActiveState": "activating", "SubState": "auto-restart"}},
        "the unit does not run; it is activating (auto-restart)",
        id="restarts",
    ),
    pytest.param(
        "start",
        {
            "result": "failed",
            "then": {
                **FAILED,
                "Result": "signal",
                "ExecMainCode": 2,
                "ExecMainStatus": 11,
            },
        },
        "the job failed; it is failed (failed), result signal, SIGSEGV",
        id="failed",
    ),
    pytest.param(
        "start",
        {"result": "dependency"},
        "a unit that it needs failed; it is inactive (dead)",
        id="dependency",
    ),
    pytest.param(
        "start",
        {"result": "frozen"},
        "the job's result is 'frozen'; it is inactive (dead)",
        id="unknown-result",
    ),
    pytest.param(
        "restart",
        {"error": "UnitMasked"},
        "the unit is masked",
        id="masked",
    ),
    pytest.param(
        "reload",
        {"error": "JobTypeNotApplicable"},
        "the unit cannot do that; to reload, a service needs ExecReload",
        id="no-reload",
    ),
    pytest.param(
        "start", {"error": "Else", "text": "no f\u00e4hre"}, "no f\u00e4hre"
    ),
    pytest.param(
        "stop",
        {"then": ACTIVE},
        "the unit did not stay stopped; it is active (running)",
        id="comes-back",
    ),
]
METHODS = {
    "start": "StartUnit",
    "stop": "StopUnit",
    "restart": "RestartUnit",
    "reload": "ReloadUnit",
}


@pytest.mark.parametrize(("verb", "how", "reason"), FAILURES)
async def test_error(
    systemd: FakeSystemd, verb: str, how: Dict[str, Any], reason: str
) -> None:
    systemd.has(**{"web.service": {METHODS[verb]: how}})
    assert await run("web", verb) == Result(
        error=f"{verb} web.service: {reason}"
    )


@pytest.mark.parametrize("verb", METHODS)
async def test_no_such_unit(systemd: FakeSystemd, verb: str) -> None:
    assert await run("x@y.timer", verb) == Result(
        error=f"{verb} x@y.timer: there is no such unit"
    )


async def test_a_result_before_the_reply(systemd: FakeSystemd) -> None:
    how = {"early": True, "then": ACTIVE}
    systemd.has(**{"web.service": {"StartUnit": how}})
    async with bus():
        works = [prepare("web", "start") for _ in range(5)]
        results = await asyncio.gather(*(work.run() for work in works))
    assert results == [Result("active (running)")] * 5


async def test_the_state_at_the_end_decides(systemd: FakeSystemd) -> None:
    """A job's end says little about a service that has just begun."""
    how = {"then": ACTIVE, "later": FAILED}
    systemd.has(**{"web.service": {"StartUnit": how}})
    assert "the unit does not run" in (await run("web", "start")).error


async def test_timeout(systemd: FakeSystemd) -> None:
    systemd.has(**{"web.service": {"StartUnit": {"delay": 100}}})
    result = await run("web", "start", timeout=0.2)
    assert result.error == (
        "start web.service: not done within its timeout of 0.2 s; it is "
        "inactive (dead)"
    )
    assert systemd.asked("Cancel") == [[]]


async def test_no_timeout(systemd: FakeSystemd) -> None:
    how = {"delay": 0.3, "then": ACTIVE}
    systemd.has(**{"web.service": {"StartUnit": how}})
    assert not (await run("web", "start", timeout=0)).error


async def test_stop(systemd: FakeSystemd) -> None:
    systemd.has(**{"web.service": {"StartUnit": {"delay": 100}}})
    async with bus():
        work = prepare("web", "start")
        running = asyncio.ensure_future(work.run())
        await until(lambda: systemd.asked("StartUnit"))
        work.stop()
        result = await running
        assert "the agent is stopping" in result.error
        await until(lambda: systemd.asked("Cancel"))


async def test_what_is_stopped_early_is_not_done(
    systemd: FakeSystemd,
) -> None:
    systemd.has(**{"web.service": {"StartUnit": {"then": ACTIVE}}})
    async with bus():
        work = prepare("web", "start")
        running = asyncio.ensure_future(work.run())
        await asyncio.sleep(0)
        work.stop()  # it still waits for the bus
        assert "the agent is stopping" in (await running).error
    assert not systemd.asked("StartUnit")


async def test_cancel(systemd: FakeSystemd) -> None:
    systemd.has(**{"web.service": {"StartUnit": {"delay": 100}}})
    async with bus():
        running = asyncio.ensure_future(prepare("web", "start").run())
        await until(lambda: systemd.asked("StartUnit"))
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        await until(lambda: systemd.asked("Cancel"))
        await until(lambda: systemd.asked("UnrefUnit"))


async def test_a_job_for_which_another_waits_goes_on(
    systemd: FakeSystemd,
) -> None:
    how = {"delay": 0.5, "then": ACTIVE}
    systemd.has(**{"web.service": {"StartUnit": how}})
    async with bus():
        first = asyncio.ensure_future(prepare("web", "start").run())
        second = asyncio.ensure_future(
            prepare("web", "start", timeout=0.2).run()
        )
        assert "timeout" in (await second).error
        assert await first == Result("active (running)")
    assert not systemd.asked("Cancel")


async def test_the_bus_is_restarted_meanwhile(systemd: FakeSystemd) -> None:
    how = {"delay": 1.0, "then": ACTIVE}
    systemd.has(**{"web.service": {"StartUnit": how}})
    async with bus():
        running = asyncio.ensure_future(prepare("web", "start").run())
        await until(lambda: systemd.asked("StartUnit"))
        await pid1.properties("web.service")  # answered after that
        systemd.bus.stop()
        systemd.bus.start()
        assert await running == Result("active (running)")


async def test_the_job_ends_while_the_bus_is_away(
    systemd: FakeSystemd,
) -> None:
    how = {"delay": 0.2, "then": ACTIVE}
    systemd.has(**{"web.service": {"StartUnit": how}})
    async with bus():
        running = asyncio.ensure_future(prepare("web", "start").run())
        await until(lambda: systemd.asked("StartUnit"))
        await pid1.properties("web.service")  # answered after that
        systemd.bus.stop()
        await asyncio.sleep(0.4)
        systemd.bus.start()
        assert await running == Result("active (running)")


async def test_the_last_lines_of_the_journal(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def last_lines(unit: str, invocation: str, since: float) -> List[str]:
        asked.append((unit, invocation))
        return ["web: \u00e4", "systemd: failed"]

    monkeypatch.setattr(journal_lines, "read", last_lines)
    then = {**FAILED, "InvocationID": [0xAB, 0xCD]}
    systemd.has(**{"web.service": {"StartUnit": {"then": then}}})
    result = await run("web", "start")
    assert result.data == "web: \u00e4\nsystemd: failed\n"
    assert asked == [("web.service", "abcd")]


def test_lines_whose_run_journald_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = datetime.now(timezone.utc)
    entries = [
        {"MESSAGE": "of the run before", "_SYSTEMD_INVOCATION_ID": "ef"},
        {"MESSAGE": "last words"},  # of a process that had ended by then
        {"MESSAGE": "bye", "_SYSTEMD_INVOCATION_ID": "abcd"},
    ]
    reader = MagicMock()
    reader.get_previous = lambda: (
        {**entries.pop(), "__REALTIME_TIMESTAMP": now} if entries else {}
    )
    opened = MagicMock()
    opened.__enter__.return_value = reader
    monkeypatch.setattr("systemd.journal.Reader", lambda: opened)
    lines = journal_lines.read("web.service", "abcd", now.timestamp() - 1)
    assert lines == ["last words", "bye"]


async def test_a_journal_that_hangs(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def last_lines(unit: str, invocation: str, since: float) -> List[str]:
        asyncio.run_coroutine_threadsafe(done.wait(), loop).result()
        return ["late"]

    monkeypatch.setattr(journal_lines, "read", last_lines)
    monkeypatch.setattr(journal_lines, "WITHIN", 0.1)
    then = {**FAILED, "InvocationID": [1]}
    systemd.has(**{"web.service": {"StartUnit": {"then": then}}})
    async with bus():
        for _ in range(journal_lines.READERS + 3):
            result = await prepare("web", "start").run()
            assert "the unit does not run" in result.error
            assert not result.data
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("journal") == journal_lines.READERS
        done.set()
    await asyncio.sleep(0.1)
