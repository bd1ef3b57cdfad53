"""The dispatcher: every row of the protocol's table of checks."""

from __future__ import annotations

import json
import uuid
from typing import Any, Callable, Dict, List, Mapping, Optional

import pytest

from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.brokers.base import Broker, OnOutput, Result
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.requests import dispatch
from ngcp_task_agent.requests.dispatch import Dispatcher
from ngcp_task_agent.requests.jobs import Jobs
from ngcp_task_agent.requests.task import Task
from tests.unit.fakes import (
    CHANNEL,
    FakeBackend,
    FakeBroker,
    FakeWork,
    Records,
    agent_limits,
    body,
    identity,
    message,
    task_config,
    until,
)

NODE = identity("sp1", "sp1.example.org", roles=["proxy"])


class Bench:
    """A dispatcher with one backend, and tasks of fake brokers."""

    def __init__(
        self, node: Identity = NODE, max_request: int = 1 << 16
    ) -> None:
        self.dispatcher = Dispatcher(lambda: node, max_request, 1 << 20)
        self.backend = FakeBackend(receive=self.dispatcher.receive)
        self.tasks: Dict[str, Task] = {}
        self.jobs = Jobs()

    def add(
        self,
        name: str = "ping",
        broker: Optional[Broker] = None,
        **fields: Any,
    ) -> Task:
        self.tasks[name] = Task(
            task_config(**fields),
            broker or FakeBroker(result=Result(data="out")),
            agent_limits(),
            self.jobs,
        )
        self.dispatcher.set_routes({("fake", CHANNEL): self.tasks})
        return self.tasks[name]

    async def ask(self, what: Any = b"", **fields: Any) -> List[Any]:
        """Send one message; return all answers to it."""
        before = len(self.backend.sent)
        self.backend.arrive(what or body(**fields))
        for task in self.tasks.values():
            await task.finished()
        return self.backend.responses()[before:]

    @property
    def counts(self) -> Dict[str, int]:
        return dict(self.dispatcher.counters.total)


async def test_accepted_then_done() -> None:
    bench = Bench()
    bench.add()
    fields = message(uuid=str(uuid.uuid4()).upper())
    accepted, done = await bench.ask(json.dumps(fields).encode())
    for response in (accepted, done):
        assert response["ref"] == fields["uuid"]
        assert response["task"] == "ping"
        assert (response["src"], response["dst"]) == ("sp1", "client")
    assert (accepted["status"], done["status"]) == ("accepted", "done")
    assert done["data"] == "out"
    assert {address for address, _, _ in bench.backend.sent} == {"feedback"}
    assert bench.counts == {"accepted": 1, "done": 1}


REJECTED: List[Any] = [
    pytest.param(b"nonsense", None, id="not-json"),
    pytest.param(b"[]", None, id="not-an-object"),
    pytest.param(b"\xff", None, id="not-utf-8"),
    pytest.param(b"[" * 10_000, None, id="too-deep"),
    pytest.param(
        b'{"options": {"feedback_channel": "fb"}, x}',
        "is not JSON",
        id="not-json-but-a-channel",
    ),
    pytest.param(body(data="x" * 70_000), "limit is 65536", id="too-large"),
    pytest.param(
        body(options={"feedback_channel": "fb"}) + b"\xff",
        "UTF-8",
        id="not-utf-8-but-a-channel",
    ),
    pytest.param(body(uuid="x"), "uuid must be", id="uuid"),
    pytest.param(body(task=None), "task must be", id="task"),
    pytest.param(body(src=1), "src must be", id="src"),
    pytest.param(body(dst=""), "dst must be", id="dst"),
    pytest.param(body(options=[]), None, id="options"),
    pytest.param(body(dst="sp1,,x"), "target 2", id="dst-malformed"),
    pytest.param(
        body(dst="sp1|state"), "'state' has no '='", id="dst-option-malformed"
    ),
    pytest.param(body(options={}), None, id="no-feedback-channel"),
    pytest.param(
        body(options={"feedback_channel": CHANNEL}),
        None,
        id="feedback-channel-is-a-control-channel",
    ),
    pytest.param(body(task="pong"), "unknown task 'pong'", id="unknown-task"),
    pytest.param(
        body(task="Ping"), "unknown task 'Ping'", id="task-in-another-case"
    ),
    pytest.param(
        body(task="fussy"), "allow_src: 'client'", id="src-not-allowed"
    ),
    pytest.param(
        body(task="typed", data=1), "data_schema: ", id="data-not-allowed"
    ),
    pytest.param(
        body(task="command", data={"extra_args": "x"}),
        "extra_args are not allowed",
        id="extra-args-not-allowed",
    ),
]


@pytest.mark.parametrize(("what", "reason"), REJECTED)
async def test_rejected(
    what: bytes, reason: Optional[str], journal_records: Records
) -> None:
    """With a reason for the client, or None if nothing can be sent."""
    bench = Bench()
    bench.add()
    bench.add("fussy", allow_src=("web*",))
    bench.add("typed", data_schema={"type": "object"})
    bench.add("command", CommandBroker({"run": "true"}))
    answers = await bench.ask(what)
    if reason is None:
        assert answers == []
    else:
        (answer,) = answers
        assert answer["status"] == "rejected"
        assert reason in answer["reason"]
        assert answer["data"] is None
    assert bench.counts == {"rejected": 1}
    (record,) = journal_records.of(journal.REQUEST_REJECTED)
    assert record.NGCP_TASK_STATUS == "rejected"
    assert not journal_records.of(journal.BUG)


IGNORED: List[Any] = [
    pytest.param({}, id="name"),
    pytest.param({"dst": "sp1|state=standby"}, id="state"),
    pytest.param({"dst": "*|role=db"}, id="role"),
    pytest.param({"dst": "local"}, id="local-of-another-machine"),
    pytest.param({"task": "nobody's"}, id="unknown-task"),
    pytest.param({"options": {}}, id="without-a-feedback-channel"),
]


@pytest.mark.parametrize("fields", IGNORED)
async def test_ignored(
    fields: Dict[str, Any], journal_records: Records
) -> None:
    bench = Bench()
    bench.add()
    assert await bench.ask(**{"dst": "sp2", **fields}) == []
    assert bench.counts == {"ignored": 1}
    (record,) = journal_records.of(journal.REQUEST_IGNORED)
    assert record.levelname == "DEBUG"
    assert record.NGCP_TASK_STATUS == "ignored"


async def test_local_through_the_own_server() -> None:
    bench = Bench()
    task = bench.add()
    bench.backend.arrive(body(dst="local"), via_own_server=True)
    await task.finished()
    assert bench.backend.statuses() == ["accepted", "done"]


ONE_WAY = [
    pytest.param("sp1", "sp1", True, id="own-name"),
    pytest.param("SP1.example.org", "*", True, id="another-own-name"),
    pytest.param("sp1", "local", True, id="local"),
    pytest.param("client", "sp1", False, id="from-elsewhere"),
    pytest.param("client", "*", False, id="from-elsewhere-to-all"),
    pytest.param("localhost", "sp1", False, id="localhost"),
]


@pytest.mark.parametrize(("src", "dst", "is_taken"), ONE_WAY)
async def test_answers_reach_only_this_node(
    src: str, dst: str, is_taken: bool, journal_records: Records
) -> None:
    bench = Bench()
    task = bench.add()
    what = body(src=src, dst=dst)
    bench.dispatcher.receive(
        Arrival(bench.backend, CHANNEL, what, one_way=True)
    )
    await task.finished()
    if is_taken:
        assert bench.backend.statuses() == ["accepted", "done"]
        return
    assert bench.backend.statuses() == []
    assert bench.counts == {"ignored": 1}
    (record,) = journal_records.of(journal.REQUEST_IGNORED)
    assert "is a replica" in record.getMessage()
    # It does not count as seen: it may arrive another way.
    bench.backend.arrive(what)
    await task.finished()
    assert bench.backend.statuses() == ["accepted", "done"]


async def test_the_first_failing_check_wins(journal_records: Records) -> None:
    """A request has every fault; they are corrected one by one."""
    bench = Bench()
    bench.add(allow_src=("web*",))
    known = str(uuid.uuid4())
    assert len(await bench.ask(uuid=known, src="web1")) == 2
    fields: Dict[str, Any] = {
        "uuid": known,
        "task": "pong",
        "src": 1,
        "dst": "a|b",
        "options": {},
    }
    for fixed, reason in (
        ({}, "src must be"),
        ({"src": "client"}, "'b' has no '='"),
        ({"dst": "sp2"}, "ignored"),
        ({"dst": "sp1"}, "feedback_channel is missing"),
        ({"options": {"feedback_channel": CHANNEL}}, "is a control channel"),
        ({"options": {"feedback_channel": "fb"}}, "duplicate request"),
        ({"uuid": str(uuid.uuid4())}, "unknown task 'pong'"),
        ({"task": "ping", "uuid": str(uuid.uuid4())}, "allow_src: 'client'"),
    ):
        fields.update(fixed)
        await bench.ask(**fields)
        last = list(journal_records)[-1]
        assert reason in last.getMessage()


async def test_an_unanswerable_request_is_not_remembered() -> None:
    """The client may correct it and send it again."""
    bench = Bench()
    bench.add()
    known = str(uuid.uuid4())
    for options in ({}, {"feedback_channel": CHANNEL}):
        assert await bench.ask(uuid=known, options=options) == []
    assert len(await bench.ask(uuid=known)) == 2


class LiveBackend(FakeBackend):
    """Has live output, where a request says."""

    def live_address(self, options: Mapping[str, Any]) -> Optional[str]:
        address = options.get("live")
        if address == "bad":
            raise Rejected("live is bad")
        return None if address is None else str(address)

    def send_live(self, address: str, encode: Callable[[], bytes]) -> bool:
        self.sent.append((address, encode(), None))
        return True


class WritingWork(FakeWork):
    """Writes two lines while it runs, if somebody wants them."""

    take: Optional[OnOutput] = None

    def on_output(self, take: OnOutput) -> None:
        self.take = take

    async def run(self) -> Result:
        if self.take:
            self.take("stdout", b"one\n")
            self.take("stdout", b"two\n")
        return Result("one\ntwo\n")


class WritingBroker(FakeBroker):
    def prepare(self, request: Request) -> FakeWork:
        return WritingWork()


class LiveBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.backend = LiveBackend(receive=self.dispatcher.receive)
        self.add("ping", WritingBroker(), live_output=True)
        self.add("quiet", WritingBroker())


def live(address: str) -> Dict[str, Any]:
    return {"options": {"feedback_channel": "fb", "live": address}}


async def test_live_output_between_accepted_and_ending() -> None:
    bench = LiveBench()
    answers = await bench.ask(**live("lines"))
    assert [a.get("status", a.get("data")) for a in answers] == [
        "accepted",
        "one\n",
        "two\n",
        "done",
    ]
    assert [address for address, _, _ in bench.backend.sent] == [
        "fb",
        "lines",
        "lines",
        "fb",
    ]
    assert answers[1]["ref"] == answers[0]["ref"]
    assert answers[-1]["data"] == "one\ntwo\n"


async def test_no_live_output_unless_task_and_request_say_so() -> None:
    bench = LiveBench()
    for fields in ({}, {**live("lines"), "task": "quiet"}):
        answers = await bench.ask(**fields)
        assert [a["status"] for a in answers] == ["accepted", "done"]


@pytest.mark.parametrize("task", ["ping", "quiet"])
@pytest.mark.parametrize(
    ("address", "reason"),
    [("bad", "live is bad"), (CHANNEL, "output must not become requests")],
)
async def test_live_output_cannot_go_everywhere(
    task: str, address: str, reason: str
) -> None:
    bench = LiveBench()
    (answer,) = await bench.ask(task=task, **live(address))
    assert answer["status"] == "rejected"
    assert reason in answer["reason"]


@pytest.mark.parametrize("feedback", [CHANNEL, "second", "of-another"])
async def test_no_answer_goes_to_a_control_channel(
    feedback: str, journal_records: Records
) -> None:
    """Of any backend: two can be connected to the same server."""
    bench = Bench()
    bench.add()
    bench.dispatcher.set_routes(
        {
            ("fake", CHANNEL): bench.tasks,
            ("fake", "second"): {},
            ("another", "of-another"): {},
        }
    )
    for what in (
        body(options={"feedback_channel": feedback}),
        body(options={"feedback_channel": feedback}, task=""),
    ):
        assert await bench.ask(what) == []
    (text, _) = journal_records.texts(journal.REQUEST_REJECTED)
    assert f"'{feedback}' is a control channel of this agent" in text
    assert bench.counts == {"rejected": 2}


async def test_duplicates() -> None:
    bench = Bench()
    bench.add()
    known = str(uuid.uuid4())
    assert len(await bench.ask(uuid=known)) == 2
    (answer,) = await bench.ask(uuid=known)
    assert (answer["status"], answer["reason"]) == (
        "rejected",
        "duplicate request",
    )
    # Case does not matter in a uuid.
    assert len(await bench.ask(uuid=known.upper())) == 1
    # Ignored requests are not remembered.
    other = str(uuid.uuid4())
    assert await bench.ask(uuid=other, dst="sp2") == []
    assert len(await bench.ask(uuid=other)) == 2


async def test_duplicates_are_per_control_channel() -> None:
    bench = Bench()
    task = bench.add()
    routes = {("fake", CHANNEL): bench.tasks, ("fake", "b"): bench.tasks}
    bench.dispatcher.set_routes(routes)
    text = body()
    bench.backend.arrive(text)
    bench.backend.arrive(text, "b")
    await task.finished()
    assert sorted(bench.backend.statuses()) == ["accepted"] * 2 + ["done"] * 2


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def test_duplicates_are_forgotten_after_ten_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(dispatch, "time", clock)
    bench = Bench()
    bench.add()
    known = str(uuid.uuid4())
    await bench.ask(uuid=known)
    clock.now += 599
    assert len(await bench.ask(uuid=known)) == 1
    clock.now += 2
    assert len(await bench.ask(uuid=known)) == 2


async def test_a_flood_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the newest uuids are remembered."""
    monkeypatch.setattr(dispatch, "REMEMBER_MOST", 10)
    bench = Bench()
    bench.add()
    asked = [body() for _ in range(50)]
    for one in asked:
        await bench.ask(one)
    assert len(await bench.ask(asked[-1])) == 1
    assert len(await bench.ask(asked[-9])) == 1
    for one in asked[:40]:
        assert len(await bench.ask(one)) == 2


async def test_busy() -> None:
    bench = Bench()
    broker = FakeBroker()
    task = bench.add("slow", broker, max_running=1, max_queued=1)
    for _ in range(3):
        bench.backend.arrive(body(task="slow"))
    await until(lambda: task.running and len(bench.backend.sent) == 3)
    assert sorted(bench.backend.statuses()) == [
        "accepted",
        "accepted",
        "rejected",
    ]
    (refused,) = (r for r in bench.backend.responses() if r["reason"])
    assert refused["reason"].startswith("busy: ")
    task.refuse()
    bench.jobs.stop()
    await task.finished()


async def test_counters() -> None:
    """Of all messages, and of each task."""
    bench = Bench()
    bench.add("ping", FakeBroker(result=Result(data="out")))
    bench.add("fails", FakeBroker(result=Result(error="broken")))
    bench.add("full", max_running=0, max_queued=0)
    bench.add("unused")
    known = str(uuid.uuid4())
    await bench.ask(uuid=known)
    await bench.ask(uuid=known)
    await bench.ask(task="fails")
    await bench.ask(task="full")
    await bench.ask(dst="sp2")
    await bench.ask(b"nonsense")
    await bench.ask(task="unknown", uuid=known)
    await bench.ask(task="unknown")
    counters = bench.dispatcher.counters
    assert counters.totals() == {
        "received": 8,
        "ignored": 1,
        "accepted": 2,
        "done": 1,
        "error": 1,
        "rejected": 5,
        "busy": 1,
        "duplicates": 2,
    }
    zeros = dict.fromkeys(counters.totals(), 0)
    assert dict(counters.by_task()) == {
        "ping": {
            **zeros,
            "received": 2,
            "accepted": 1,
            "done": 1,
            "rejected": 1,
            "duplicates": 1,
        },
        "fails": {**zeros, "received": 1, "accepted": 1, "error": 1},
        "full": {**zeros, "received": 1, "rejected": 1, "busy": 1},
    }


async def test_a_task_that_stays_goes_on_counting() -> None:
    bench = Bench()
    bench.add("ping")
    bench.add("pong")
    await bench.ask(task="ping")
    await bench.ask(task="pong")
    del bench.tasks["pong"]
    bench.add("ping")
    await bench.ask(task="ping")
    by_task = dict(bench.dispatcher.counters.by_task())
    assert {name: of["done"] for name, of in by_task.items()} == {"ping": 2}
    assert bench.dispatcher.counters.totals()["done"] == 3


async def test_tasks_of_several_channels() -> None:
    bench = Bench()
    one = bench.add("one")
    bench.dispatcher.set_routes(
        {("fake", "a"): {"one": one}, ("fake", "b"): {}}
    )
    bench.backend.arrive(body(task="one"), "a")
    bench.backend.arrive(body(task="one"), "b")
    bench.backend.arrive(body(task="one"), "c")
    await one.finished()
    assert sorted(bench.backend.statuses()) == [
        "accepted",
        "done",
        "rejected",
        "rejected",
    ]


async def test_no_message_stops_the_service(journal_records: Records) -> None:
    def fails() -> Identity:
        raise ZeroDivisionError("a bug")

    dispatcher = Dispatcher(fails, 1000, 1000)
    dispatcher.receive(Arrival(FakeBackend(), CHANNEL, b"{}"))
    (record,) = journal_records.of(journal.BUG)
    assert record.exc_info


SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"extra_args": SECRET}, id="extra-args"),
        pytest.param({"extra_args": [SECRET, "x"]}, id="list"),
        pytest.param(json.dumps({"extra_args": SECRET}), id="string"),
        pytest.param({"password": SECRET}, id="data"),
        pytest.param(SECRET, id="text"),
        pytest.param([{"a": SECRET}], id="list-of-objects"),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"run": "echo", "extra_args": True}, id="done"),
        pytest.param({"run": "false", "extra_args": True}, id="error"),
        pytest.param({"run": "cat", "stdin": "data"}, id="stdin"),
        pytest.param({"run": "nowhere", "extra_args": True}, id="missing"),
        pytest.param({"run": "echo", "extra_args": ["x"]}, id="rejected"),
        pytest.param({"run": "echo"}, id="no-extra-args"),
        pytest.param(
            {
                "run": "sh",
                "args": ["-c", 'echo "$0 $NGCP_TASK_DATA"; exit 1'],
                "extra_args": True,
            },
            id="standard-output",
        ),
    ],
)
async def test_nothing_secret_above_debug(
    options: Dict[str, Any], data: Any, journal_records: Records
) -> None:
    bench = Bench()
    bench.add("command", CommandBroker(options))
    assert await bench.ask(task="command", data=data)
    bench.add("typed", data_schema={"const": 1})
    assert await bench.ask(task="typed", data=data)
    records = list(journal_records)
    assert records
    for record in records:
        if record.levelname != "DEBUG":
            assert SECRET not in repr(vars(record)), record


FORGED: List[Callable[[str], Dict[str, Any]]] = [
    lambda text: {"task": text},
    lambda text: {"src": text},
    lambda text: {"dst": text},
    lambda text: {"dst": f"a|{text}"},
    lambda text: {"uuid": text},
]


@pytest.mark.parametrize("fields", FORGED)
async def test_no_line_can_be_forged(
    fields: Callable[[str], Dict[str, Any]], journal_records: Records
) -> None:
    bench = Bench()
    bench.add()
    await bench.ask(**fields("x\nMay 1 INFO accepted\r\x1b[2J\u2028y"))
    records = list(journal_records)
    assert records
    for record in records:
        # The log's formatter escapes the message.
        assert not record.exc_info
