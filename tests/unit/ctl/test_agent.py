"""What asks the running agent."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Callable, List, Tuple

import pytest

from ngcp_task_agent.ctl import agent, complete
from ngcp_task_agent.ctl.cli import main
from ngcp_task_agent.errors import (
    AgentError,
    BusAway,
    BusError,
    CannotReload,
    NotAllowed,
)
from ngcp_task_agent.management import reload
from ngcp_task_agent.management.client import RunningAgent
from tests.running_agent import NASTY, ONE, FakeAgent

Run = Callable[..., Tuple[str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Run the command; return what it writes, and to standard error."""
    monkeypatch.setattr(agent, "RunningAgent", FakeAgent)

    def run(*argv: str, status: int = 0) -> Tuple[str, str]:
        assert main(list(argv)) == status
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return out, err

    return run


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[AgentError], None]:
    return lambda error: monkeypatch.setattr(FakeAgent, "error", error)


def test_status(run: Run) -> None:
    out, _ = run("status")
    assert "Node:     prx01a, prx01a.example.org\n" in out
    assert "Roles:    proxy, lb\n" in out
    assert "Labels:   site=vienna\n" in out
    assert (
        "Requests: 9 received: 0 ignored, 2 rejected (1 busy, 0 duplicates), "
        "7 accepted (7 done, 0 error)\n"
    ) in out
    assert re.search(r"^other +away +Connection refused$", out, re.M)
    # Running, queued, accepted, done, error, rejected, busy.
    assert re.search(r"^ping +redis +1 +0 +0 +7 +0 +0 +0$", out, re.M)
    assert re.search(rf"^{ONE} .* 3 h 0 min +4711$", out, re.M)


def test_status_as_json(run: Run) -> None:
    found = json.loads(run("status", "--json")[0])
    assert found["is_on_bus"] is True
    assert found["node"]["labels"] == {"site": "vienna"}
    assert found["backends"][1]["reason"] == "Connection refused"
    assert found["tasks"][0]["counters"] == {"done": 7}
    assert found["tasks"][1]["counters"] == {}
    assert found["jobs"][0]["uuid"] == ONE
    assert found["counters"]["received"] == 9


def test_status_without_an_agent(
    run: Run, fails: Callable[[AgentError], None]
) -> None:
    fails(BusAway("no agent is on the system bus"))
    out, _ = run("status", status=1)
    assert re.match("Agent: +cannot be asked: no agent is on the", out)
    found = json.loads(run("status", "--json", status=1)[0])
    assert found["is_on_bus"] is False
    assert found["reason"] == "no agent is on the system bus"


def test_what_systemd_knows_about_an_agent_that_is_not_on_the_bus(
    run: Run,
    fails: Callable[[AgentError], None],
    program: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails(BusAway("no agent is on the system bus"))
    path = program(
        "echo ActiveState=failed; echo SubState=failed; echo StatusText=a=b",
        "systemctl",
    )
    monkeypatch.setenv("PATH", path.rpartition("/")[0])
    out, _ = run("status", status=1)
    assert "Service: failed (failed)\n" in out
    assert "Status:  a=b\n" in out


def test_tasks(run: Run) -> None:
    out, _ = run("tasks")
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:6] == [
        *("ping", "redis", "tasks", "command", "1", "0")
    ]
    assert json.loads(run("tasks", "--json")[0])[1]["description"] == NASTY


def test_jobs(run: Run) -> None:
    out, _ = run("jobs")
    assert re.search(rf"^{ONE} +ping +sp1 +running +3 h .* 4711$", out, re.M)
    assert re.search(r" queued +3 h 0 min +-$", out, re.M)
    first, second = json.loads(run("jobs", "--json")[0])
    assert re.fullmatch(r"20.{24}\+00:00", first["since"])
    assert second["src"] == NASTY


@pytest.mark.parametrize("command", ["status", "tasks", "jobs"])
def test_strangers_texts_are_escaped(command: str, run: Run) -> None:
    for words in ([command], [command, "--json"]):
        out, _ = run(*words)
        assert out.replace("\n", "").isprintable()


def test_cancel(run: Run) -> None:
    assert run("cancel", ONE.upper())[0] == f"cancelled {ONE}\n"


async def test_what_is_too_long_for_a_uuid() -> None:
    assert not await RunningAgent().cancel("x" * 101)


def test_cancel_an_unknown_request(run: Run) -> None:
    out, err = run("cancel", "x\x1b", status=1)
    assert not out
    assert r"no request 'x\x1b' runs or waits" in err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BusAway("no agent is on the system bus"), 1),
        (BusError("com.example.Failed", "it failed"), 1),
        (NotAllowed("only root may"), 77),
    ],
)
@pytest.mark.parametrize(
    "argv", [["tasks"], ["jobs", "--json"], ["cancel", ONE]]
)
def test_failures(
    error: AgentError,
    status: int,
    argv: List[str],
    run: Run,
    fails: Callable[[AgentError], None],
) -> None:
    fails(error)
    out, err = run(*argv, status=status)
    assert not out
    assert err.startswith(f"ngcp-task-agentctl: {error}")


@pytest.mark.parametrize(
    "argv",
    [[], ["nope"], ["cancel"], ["cancel", ONE, ONE], ["jobs", "x"]],
    ids=" ".join,
)
def test_wrong_usage(argv: List[str], run: Run) -> None:
    out, err = run(*argv, status=2)
    assert not out
    assert "usage: ngcp-task-agentctl" in err


def test_wrong_usage_of_a_command_shows_its_own(run: Run) -> None:
    _, err = run("jobs", "--jsn", status=2)
    assert err.startswith("usage: ngcp-task-agentctl jobs ")
    assert err.endswith("unrecognized arguments: --jsn\n")


def test_help_and_version(run: Run) -> None:
    assert "status" in run("--help")[0]
    assert run("--version")[0].startswith("ngcp-task-agentctl 1.")


def test_completion(run: Run) -> None:
    assert complete.uuids() == [ONE]
    assert complete.tasks() == ["nasty", "ping"]


def test_completion_without_an_agent(
    run: Run, fails: Callable[[AgentError], None]
) -> None:
    fails(BusAway("no agent is on the system bus"))
    assert complete.uuids() == []
    assert isinstance(complete.tasks(), list)


def test_completion_with_a_bus_that_hangs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(self: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(FakeAgent, "__aenter__", hang)
    monkeypatch.setattr(complete, "WITHIN", 0.01)
    assert complete.uuids() == []


def test_a_bug(
    run: Run, fails: Callable[[AgentError], None], monkeypatch: Any
) -> None:
    monkeypatch.setattr(FakeAgent, "error", RuntimeError("oh"))
    assert run("jobs", status=70)[1] == (
        "ngcp-task-agentctl: a bug: RuntimeError('oh')\n"
    )


@pytest.fixture
def answers(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[], Any]], None]:
    """Let a function answer to a reload."""

    def answers(answer: Callable[[], Any]) -> None:
        async def ask() -> Any:
            return answer()

        monkeypatch.setattr(reload, "ask", ask)

    return answers


def test_reload(run: Run, answers: Callable[..., None]) -> None:
    answers(lambda: ([], ""))
    assert run("reload") == ("", "")
    answers(lambda: (["a.yml:1: x\x1b", "b.yml: y"], ""))
    _, err = run("reload", status=78)
    assert err == "a.yml:1: x\\x1b\nb.yml: y\n"


def test_reload_by_a_signal(run: Run, answers: Callable[..., None]) -> None:
    answers(lambda: ([], "there is no bus: sent SIGHUP"))
    assert run("reload") == ("there is no bus: sent SIGHUP\n", "")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CannotReload("no agent is there"), 1),
        (BusError("com.example.Failed", "it is stopping"), 1),
        (NotAllowed("only root may"), 77),
    ],
)
def test_reload_fails(
    error: AgentError, status: int, run: Run, answers: Callable[..., None]
) -> None:
    def fail() -> None:
        raise error

    answers(fail)
    assert run("reload", status=status) == (
        "",
        f"ngcp-task-agentctl: {error}\n",
    )
