"""The agent: starts, reloads and drains, with a backend in memory."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ngcp_task_agent import background
from ngcp_task_agent.brokers.base import AgentView
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.config import loader as config_module
from ngcp_task_agent.config.loader import Config, Loader
from ngcp_task_agent.config.plugins import Plugins
from ngcp_task_agent.daemon.agent import Agent
from ngcp_task_agent.daemon.systemd import Notifier
from ngcp_task_agent.errors import CannotReload
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import new_uuid
from tests.unit.fakes import FakeBackend, Records, body, until, write


class Noting(Notifier):
    """Records the notices for systemd."""

    def __init__(self) -> None:
        self.notices: List[str] = []
        self.last_status = self.ready_status = ""

    def ready(self) -> None:
        self.notices.append("ready")
        self.ready_status = self.last_status

    def reloading(self) -> None:
        self.notices.append("reloading")

    def stopping(self, within: float) -> None:
        self.notices.append("stopping")

    def status(self, text: str) -> None:
        self.last_status = text


class Bench:
    """An agent in this process, and the backends that it has made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: List[FakeBackend] = []
        self.notifier = Noting()
        write(
            folder / "agent.yml",
            "node: {name: sp1, state: active, status: online, roles: []}\n"
            "stop_timeout: 0.2\n",
        )
        write(folder / "backends/fake.yml", "port: 1\n")
        self.task("echo", "{run: echo, args: hello}")

    def task(self, name: str, options: str, more: str = "") -> None:
        write(
            self.folder / f"tasks/{name}.yml",
            f"name: {name}\nbackend: fake\nbackend_options: {{queue: q}}\n"
            f"broker: command\nbroker_options: {options}\n{more}",
        )

    async def start(self) -> None:
        self.agent = Agent(Loader(self.folder), self.notifier)
        self.running = asyncio.create_task(self.agent.run())
        await until(
            lambda: "ready" in self.notifier.notices or self.running.done()
        )

    @property
    def backend(self) -> FakeBackend:
        return self.made[-1]

    def send(self, task: str, channel: str = "q", **fields: Any) -> None:
        self.backend.arrive(body(task=task, **fields), channel)

    async def ask(self, task: str, **fields: Any) -> Dict[str, Any]:
        """Send a request; return its only answer, or its ending."""
        uuid = new_uuid()

        def ends() -> List[Dict[str, Any]]:
            return [
                answer
                for answer in self.backend.responses()
                if answer["ref"] == uuid and answer["status"] != "accepted"
            ]

        self.send(task, uuid=uuid, **fields)
        (answer,) = await until(ends)
        return dict(answer)

    async def said(self, task: str, **fields: Any) -> Any:
        """Return what a built-in task has answered."""
        answer = await self.ask(task, **fields)
        assert answer["status"] == "done", answer
        return json.loads(answer["data"])

    async def answers(self, count: int) -> List[Dict[str, Any]]:
        await until(lambda: len(self.backend.sent) >= count)
        return [json.loads(message) for _, message, _ in self.backend.sent]

    async def stop(self, number: int = signal.SIGTERM) -> int:
        os.kill(os.getpid(), number)
        return await self.running


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """An agent that has ended ignores the signals that end it."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [(number, signal.getsignal(number)) for number in numbers]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "etc")

    class Kept(FakeBackend):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.made.append(self)

    plugins = Plugins({"fake": Kept}, {"command": CommandBroker})
    monkeypatch.setattr(config_module.plugins, "installed", lambda: plugins)
    return made


async def test_runs_tasks_until_a_signal(
    bench: Bench, journal_records: Records
) -> None:
    await bench.start()
    assert bench.backend.channels == {"q"}
    bench.send("echo")
    accepted, done = await bench.answers(2)
    assert (accepted["status"], done["status"]) == ("accepted", "done")
    assert (done["src"], done["data"]) == ("sp1", "hello\n")
    assert await bench.stop() == 0
    calls = dict.fromkeys(bench.backend.calls)
    assert [*calls] == ["start", "stop_listening", "stop"]
    assert bench.notifier.notices == ["ready", "stopping"]
    assert bench.notifier.last_status.isascii()
    for kind in (journal.STARTED, journal.STOPPING, journal.STOPPED):
        assert len(journal_records.of(kind)) == 1
    assert "1 accepted, 1 done" in journal_records.texts(journal.STOPPED)[0]


async def test_a_broker_starts_when_its_task_takes_effect(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(self: CommandBroker, agent: AgentView) -> None:
        started.append((agent.folder, self.options["args"]))

    monkeypatch.setattr(CommandBroker, "start", start)
    await bench.start()
    bench.task("more", "{run: echo, args: more}")
    await bench.agent.reload()
    assert started == [(bench.folder, "hello"), (bench.folder, "more")]
    await bench.stop()


async def test_nothing_to_run(bench: Bench, journal_records: Records) -> None:
    (bench.folder / "backends/fake.yml").unlink()
    await bench.start()
    assert await bench.running == 78
    (text,) = journal_records.texts(journal.NOTHING_TO_RUN)
    assert bench.notifier.last_status == text


async def test_status_is_the_truth_when_ready(bench: Bench) -> None:
    """What is wrong comes first."""
    bench.task("bad", "{run: 1}")
    rewrite("agent.yml", "0.2", "soon")(bench)
    await bench.start()
    sound = "fake: listening, 1 task, 0 running"
    assert bench.notifier.ready_status == (
        "2 faulty files: agent.yml, tasks/bad.yml; state unknown; "
        f"status unknown; {sound}"
    )
    rewrite("agent.yml", "soon", "0.2")(bench)
    await bench.agent.reload()
    assert bench.notifier.ready_status == (
        f"1 faulty file: tasks/bad.yml; {sound}"
    )
    (bench.folder / "tasks/bad.yml").unlink()
    await bench.agent.reload()
    assert bench.notifier.ready_status == sound
    rewrite("agent.yml", "active", "unknown")(bench)
    await bench.agent.reload()
    assert bench.notifier.ready_status == f"state unknown; {sound}"
    bench.folder.rename(bench.folder.parent / "away")
    await bench.agent.reload()
    assert bench.notifier.ready_status.startswith("1 faulty file: /")
    assert await bench.stop() == 0


async def test_status_stays_short(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        bench.task(f"bad{number:02}", "{run: 1}")
    why = "broken " * 100
    monkeypatch.setattr(FakeBackend, "trouble", why)
    await bench.start()
    status = bench.notifier.ready_status
    assert len(status) < 240
    begin = "100 faulty files: tasks/bad00.yml, tasks/bad01.yml, "
    assert status.startswith(begin)
    assert "...; fake: listening (broken broken " in status
    assert status.endswith("...), 1 task, 0 running")
    assert await bench.stop() == 0


async def test_status_says_why_a_backend_is_away(
    bench: Bench, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "trouble", "Connection refused")
    await bench.start()
    status = "fake: listening (Connection refused), 1 task, 0 running"
    assert bench.notifier.ready_status == status
    assert f": {status};" in journal_records.texts(journal.STARTED)[0]
    assert await bench.stop() == 0


async def test_status_names_the_oldest_running_task(bench: Bench) -> None:
    bench.task("slow", "{run: sleep, args: '600'}")
    bench.task("other", "{run: sleep, args: '600'}")
    await bench.start()
    for task in ("slow", "slow", "other"):
        bench.send(task)
    await bench.answers(3)

    def shown() -> int:
        _, _, more = bench.notifier.last_status.partition(
            "3 running, oldest: slow for "
        )
        return int(more.split()[0]) if more else 0

    await until(lambda: shown() >= 1)
    # Also if its task is gone.
    (bench.folder / "tasks/slow.yml").unlink()
    await bench.agent.reload()
    await until(lambda: shown() >= 2)
    assert bench.notifier.last_status.endswith(" s, 3 accepted")
    assert await bench.stop() == 0


async def test_status_shortens_names_of_tasks(bench: Bench) -> None:
    name = "long" * 32
    bench.task(name, "{run: sleep, args: '600'}")
    await bench.start()
    bench.send(name)
    await until(lambda: "oldest" in bench.notifier.last_status)
    assert f"oldest: {name[:37]}... for " in bench.notifier.last_status
    assert await bench.stop() == 0


async def test_faulty_files_are_left_out(
    bench: Bench, journal_records: Records
) -> None:
    bench.task("bad", "{run: 1}")
    await bench.start()
    bench.send("bad")
    (answer,) = await bench.answers(1)
    assert answer["reason"] == "unknown task 'bad'"
    (text,) = journal_records.texts(journal.CONFIG_FAULT)
    assert "bad.yml:5: broker_options.run: " in text
    assert await bench.stop(signal.SIGINT) == 0


async def test_stop_answers_running_tasks(bench: Bench) -> None:
    bench.task("slow", "{run: sleep, args: '600'}", "max_running: 1\n")
    await bench.start()
    bench.send("slow")
    bench.send("slow")
    await bench.answers(2)
    assert await bench.stop() == 0
    answers = await bench.answers(4)
    statuses = sorted(answer["status"] for answer in answers)
    assert statuses == ["accepted", "accepted", "error", "error"]
    assert all("stopping" in a["reason"] for a in answers if a["reason"])


async def test_a_second_signal_hurries(bench: Bench) -> None:
    path = bench.folder / "agent.yml"
    path.write_text(path.read_text().replace("0.2", "600"))
    bench.task("slow", "{run: sleep, args: '600'}")
    await bench.start()
    bench.send("slow")
    await bench.answers(1)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "stopping" in bench.notifier.notices)
    assert await bench.stop() == 0
    assert bench.backend.statuses() == ["accepted", "error"]


async def test_a_signal_never_kills_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.start()
    handlers: List[Any] = []
    really = signal.signal

    def note(number: int, handler: Any) -> Any:
        handlers.append(handler)
        return really(number, handler)

    monkeypatch.setattr(signal, "signal", note)
    assert await bench.stop() == 0
    assert signal.SIG_DFL not in handlers
    assert signal.default_int_handler not in handlers


def rewrite(name: str, old: str, new: str) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        path = bench.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


async def test_reload(bench: Bench, journal_records: Records) -> None:
    await bench.start()
    backend = bench.backend
    rewrite("tasks/echo.yml", "hello", "goodbye")(bench)
    bench.task("new", "{run: 'true'}")
    assert await bench.agent.reload() == ()
    # A backend whose file stays keeps its connection.
    assert bench.made == [backend]
    bench.send("echo")
    bench.send("new")
    answers = await bench.answers(4)
    assert "goodbye\n" in [answer["data"] for answer in answers]
    assert journal_records.of(journal.RELOADED)
    assert bench.notifier.notices == ["ready", "reloading", "ready"]
    assert await bench.stop() == 0


async def test_reload_by_signal(
    bench: Bench, journal_records: Records
) -> None:
    await bench.start()
    (bench.folder / "tasks/echo.yml").unlink()
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: journal_records.of(journal.RELOADED))
    assert bench.backend.channels == frozenset()
    assert await bench.stop() == 0


async def test_reload_with_faults_changes_nothing_else(
    bench: Bench, journal_records: Records
) -> None:
    await bench.start()
    rewrite("tasks/echo.yml", "run: echo", "runs: echo")(bench)
    rewrite("backends/fake.yml", "port: 1", "port: x")(bench)
    faults = await bench.agent.reload()
    assert len(faults) == 3
    (text,) = journal_records.texts(journal.RELOAD_FAULTY)
    assert text == (
        "reloaded, but with 3 faults: 2 files keep their last good version; "
        "fake: listening, 1 task, 0 running"
    )
    bench.send("echo")
    await bench.answers(2)
    assert bench.backend.statuses() == ["accepted", "done"]
    assert len(bench.made) == 1
    assert await bench.stop() == 0


async def test_reload_that_cannot_read_changes_nothing(
    bench: Bench, journal_records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(loader: Loader) -> Config:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    await bench.start()
    with monkeypatch.context() as patched:
        patched.setattr(Loader, "load", fails)
        with pytest.raises(CannotReload, match="Too many open files"):
            await bench.agent.reload()
    (text,) = journal_records.texts(journal.RELOAD_FAULTY)
    assert "not reloaded: " in text
    bench.send("echo")
    await bench.answers(2)
    assert bench.backend.statuses() == ["accepted", "done"]
    assert await bench.stop() == 0


async def test_reload_reports_faulty_files(
    bench: Bench, journal_records: Records
) -> None:
    await bench.start()
    bench.task("new", "{}")
    await bench.agent.reload()
    rewrite("tasks/echo.yml", "run: echo", "runs: echo")(bench)
    bench.task("newer", "{}")
    await bench.agent.reload()
    (bench.folder / "backends/fake.yml").rename(
        bench.folder / "backends/other.yml"
    )
    await bench.agent.reload()
    texts = journal_records.texts(journal.RELOAD_FAULTY)
    assert [text.partition(";")[0] for text in texts] == [
        "reloaded, but with 1 fault: 1 file is left out",
        "reloaded, but with 4 faults: 1 file keeps its last good version, "
        "2 files are left out",
        "reloaded, but with 8 faults: 4 files are left out",
    ]
    assert await bench.stop() == 0


async def test_reload_changes_the_sizes_of_messages(bench: Bench) -> None:
    bench.task("much", "{run: head, args: -c 9000 /dev/zero}")
    await bench.start()
    bench.send("much", data="x" * 9000)
    answers = await bench.answers(2)
    assert answers[1]["data"] == "\0" * 9000
    path = bench.folder / "agent.yml"
    sound = path.read_text()
    path.write_text(f"{sound}max_request: 4096\n")
    await bench.agent.reload()
    bench.send("much", data="x" * 9000)
    answers = await bench.answers(3)
    assert "limit is 4096" in answers[2]["reason"]
    path.write_text(f"{sound}max_response: 20000\n")
    await bench.agent.reload()
    bench.send("much", data="x" * 9000)
    answers = await bench.answers(5)
    # Each of the bytes takes six in JSON.
    assert answers[4]["chunks"] > 1
    await bench.answers(4 + answers[4]["chunks"])
    assert await bench.stop() == 0


async def test_reload_changes_max_running(
    bench: Bench, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    script = f"echo >> {begun}; exec sleep 600"
    bench.task("slow", f"{{run: sh, args: [-c, '{script}']}}")
    path = bench.folder / "agent.yml"
    sound = path.read_text()
    path.write_text(f"{sound}max_running: 1\n")
    await bench.start()
    bench.send("slow")
    await until(begun.exists)
    bench.send("slow")
    await bench.answers(2)
    path.write_text(f"{sound}max_running: 2\n")
    await bench.agent.reload()
    await until(lambda: begun.read_text() == "\n\n")
    assert await bench.stop() == 0


async def test_reload_changes_stop_timeout(bench: Bench) -> None:
    rewrite("agent.yml", "0.2", "600")(bench)
    bench.task("slow", "{run: sleep, args: '600'}")
    await bench.start()
    bench.send("slow")
    await bench.answers(1)
    rewrite("agent.yml", "600", "0.2")(bench)
    await bench.agent.reload()
    assert await asyncio.wait_for(bench.stop(), 60) == 0
    assert bench.backend.statuses() == ["accepted", "error"]


async def test_node_is_unknown_while_its_file_is_faulty(
    bench: Bench, journal_records: Records
) -> None:
    """Only its name can be found in another way."""
    rewrite("agent.yml", "0.2", "soon")(bench)
    await bench.start()
    for option in ("state=active", "status=online", "role=*"):
        bench.send("echo", dst=f"*|{option}", src="in vain")
    bench.send("echo", dst="*|state=unknown;status=unknown")
    answers = await bench.answers(2)
    assert [answer["dst"] for answer in answers] == ["client"] * 2
    rewrite("agent.yml", "soon", "0.2")(bench)
    await bench.agent.reload()
    bench.send("echo", dst="sp1|state=active;status=online")
    answers = await bench.answers(4)
    assert answers[3]["status"] == "done"
    assert await bench.stop() == 0
    assert "3 ignored" in journal_records.texts(journal.STOPPED)[0]


async def test_running_tasks_end_as_they_began(bench: Bench) -> None:
    bench.task("slow", "{run: sh, args: [-c, 'sleep 0.3; echo old']}")
    await bench.start()
    bench.send("slow")
    await bench.answers(1)
    rewrite("tasks/slow.yml", "old", "new")(bench)
    await bench.agent.reload()
    answers = await bench.answers(2)
    assert answers[1]["data"] == "old\n"
    assert await bench.stop() == 0


async def test_backend_that_changes_is_replaced(bench: Bench) -> None:
    bench.task("slow", "{run: sleep, args: '0.3'}")
    await bench.start()
    old = bench.backend
    bench.send("slow")
    await bench.answers(1)
    rewrite("backends/fake.yml", "1", "2")(bench)
    await bench.agent.reload()
    assert len(bench.made) == 2
    assert bench.backend.options == {"port": 2}
    # The old one stays until its last answer is sent.
    await until(lambda: "stop" in old.calls)
    assert old.statuses() == ["accepted", "done"]
    bench.send("echo")
    await bench.answers(2)
    assert await bench.stop() == 0


async def test_a_bug_ends_the_agent(
    bench: Bench, journal_records: Records
) -> None:
    """A restart is better than running half alive."""
    await bench.start()

    async def fail() -> None:
        raise ZeroDivisionError

    background.start(fail())
    assert await asyncio.wait_for(bench.running, 30) == 1
    assert journal_records.of(journal.BUG)[0].exc_info


async def test_another_bug_is_only_logged(
    bench: Bench, journal_records: Records
) -> None:
    await bench.start()
    asyncio.get_running_loop().call_exception_handler(
        {"message": "something odd", "exception": ZeroDivisionError()}
    )
    assert journal_records.of(journal.BUG)[0].exc_info
    bench.send("echo")
    await bench.answers(2)
    assert await bench.stop() == 0


# The tasks that the agent adds.


async def test_built_in_tasks_are_on_each_control_channel(
    bench: Bench,
) -> None:
    bench.task("sleep", "{run: sleep, args: '60'}", "description: Sleeps\n")
    write(
        bench.folder / "tasks/other.yml",
        "name: other\nbackend: fake\nbackend_options: {queue: r}\n"
        "broker: command\nbroker_options: {run: sleep, args: '60'}\n",
    )
    await bench.start()
    assert "2 tasks" not in bench.notifier.last_status
    assert "3 tasks" in bench.notifier.last_status
    sleeps, other = new_uuid(), new_uuid()
    bench.send("sleep", uuid=sleeps, src="web01")
    bench.send("other", "r", uuid=other)
    for channel, task, uuid in (("q", "sleep", sleeps), ("r", "other", other)):
        # Only what belongs to the channel is seen, and can be ended.
        pinged = await bench.said("ngcp.ping", channel=channel)
        assert pinged["node"]["name"] == "sp1"
        assert (pinged["running"], pinged["queued"]) == (1, 0)
        described = await bench.said("ngcp.describe", channel=channel)
        names = [found["name"] for found in described["tasks"]]
        assert names == (["other"] if channel == "r" else ["echo", "sleep"])
        last = described["tasks"][-1]
        assert (last["timeout"], last["extra_args"]) == (300, False)
        assert (last["running"], last["queued"]) == (1, 0)
        (job,) = (await bench.said("ngcp.jobs", channel=channel))["jobs"]
        assert (job["uuid"], job["task"]) == (uuid, task)
        assert job["state"] == "running"
        wrong = {"ref": other if channel == "q" else sleeps}
        ended = await bench.said("ngcp.cancel", channel=channel, data=wrong)
        assert ended == {"cancelled": 0}
    right = {"ref": sleeps.upper()}
    ended = await bench.said("ngcp.cancel", src="web02", data=right)
    assert ended == {"cancelled": 1}
    (ending,) = (
        answer
        for answer in bench.backend.responses()
        if answer["ref"] == sleeps and answer["status"] == "error"
    )
    assert ending["reason"] == "cancelled by web02"
    assert (await bench.said("ngcp.jobs"))["jobs"] == []
    await bench.stop()


async def test_a_full_agent_answers(bench: Bench) -> None:
    with open(bench.folder / "agent.yml", "a") as file:
        file.write("max_running: 1\n")
    bench.task("sleep", "{run: sleep, args: '60'}", "max_running: 1\n")
    await bench.start()
    waits = new_uuid()
    bench.send("sleep")
    bench.send("echo", uuid=waits)
    pinged = await bench.said("ngcp.ping")
    assert (pinged["running"], pinged["queued"]) == (1, 1)
    states = [job["state"] for job in (await bench.said("ngcp.jobs"))["jobs"]]
    assert states == ["running", "queued"]
    ended = await bench.said("ngcp.cancel", src="w", data={"ref": waits})
    assert ended == {"cancelled": 1}
    reasons = [answer["reason"] for answer in bench.backend.responses()]
    assert "cancelled by w; nothing was run" in reasons
    await bench.stop()


async def test_which_built_in_tasks_there_are(bench: Bench) -> None:
    agent = bench.folder / "agent.yml"
    start = agent.read_text()
    await bench.start()
    assert (await bench.ask("ngcp.ping"))["status"] == "done"
    write(agent, f"{start}built_in_tasks: no\n")
    await bench.agent.reload()
    for task in ("ngcp.ping", "ngcp.describe", "ngcp.jobs", "ngcp.cancel"):
        answer = await bench.ask(task)
        assert answer["reason"] == f"unknown task '{task}'"
    write(
        agent,
        f"{start}built_in_tasks: [ngcp.ping]\nbuilt_in_allow_src: ['op*']\n",
    )
    await bench.agent.reload()
    assert (await bench.ask("ngcp.ping", src="op1"))["status"] == "done"
    assert "allow_src" in (await bench.ask("ngcp.ping"))["reason"]
    assert "unknown" in (await bench.ask("ngcp.jobs", src="op1"))["reason"]
    # A configured task of that name comes first.
    bench.task("ngcp.ping", "{run: echo, args: pong}")
    await bench.agent.reload()
    assert (await bench.ask("ngcp.ping"))["data"] == "pong\n"
    await bench.stop()


async def test_no_built_in_tasks_while_agent_yml_is_faulty(
    bench: Bench,
) -> None:
    # It may say that there are none.
    write(bench.folder / "agent.yml", "nodes: {}\n")
    await bench.start()
    answer = await bench.ask("ngcp.ping")
    assert answer["reason"] == "unknown task 'ngcp.ping'"
    await bench.stop()


async def test_the_lists_of_many_leave_time_for_others(bench: Bench) -> None:
    for number in range(250):
        bench.task(f"t{number:03}", "{run: echo}")
    await bench.start()
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    bench.send("ngcp.describe")
    counting = asyncio.create_task(count())
    await until(lambda: "done" in bench.backend.statuses())
    counting.cancel()
    assert rounds >= 3
    tasks = json.loads(bench.backend.responses()[-1]["data"])["tasks"]
    assert len(tasks) == 251
    await bench.stop()
