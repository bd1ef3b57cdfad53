"""Tasks: policy, limits, and exactly one ending whatever happens."""

from __future__ import annotations

import asyncio
import collections
import functools
from typing import Any, Dict, List, Optional, Tuple, cast

import pytest

from ngcp_task_agent.brokers.base import Broker, Result, Work
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.requests import check_time
from ngcp_task_agent.requests.jobs import Jobs
from ngcp_task_agent.requests.limits import LEAST, Limits
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.task import Task
from tests.unit.fakes import (
    FakeBackend,
    FakeBroker,
    Records,
    agent_limits,
    request,
    task_config,
    until,
)


class Bench:
    """A task between a fake backend and a fake broker."""

    def __init__(
        self,
        broker: Optional[Broker] = None,
        limits: Optional[Limits] = None,
        **fields: Any,
    ) -> None:
        self.broker: Any = broker or FakeBroker()
        self.backend = FakeBackend()
        self.limits = limits or agent_limits()
        config = task_config(**{"max_running": 2, "max_queued": 2, **fields})
        self.jobs = Jobs()
        self.task = Task(config, self.broker, self.limits, self.jobs)

    def take(self, data: Any = None, **fields: Any) -> Request:
        asked = request(data, **fields)
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

    def answers(self, asked: Request) -> List[str]:
        return [
            response["status"]
            for response in self.backend.responses()
            if response["ref"] == asked.uuid
        ]

    def reasons(self) -> List[str]:
        return [r["reason"] for r in self.backend.responses() if r["reason"]]

    async def end(self) -> None:
        """Let all running and waiting requests end."""
        finished = asyncio.ensure_future(self.task.finished())
        while not finished.done():
            for work in self.broker.running:
                work.end.set_result(Result(data="out"))
            await asyncio.sleep(0)


async def test_accepted_then_done() -> None:
    bench = Bench(FakeBroker(result=Result(data="out")))
    bench.take()
    await bench.task.finished()
    assert bench.backend.statuses() == ["accepted", "done"]
    assert bench.backend.responses()[1]["data"] == "out"


class Watching(FakeBroker):
    """Records what had been sent when its work began."""

    backend: FakeBackend
    sent: List[str]

    def prepare(self, request: Request) -> Any:
        watching = self

        class Noting(CrashingWork):
            async def run(self) -> Result:
                watching.sent = watching.backend.statuses()
                return Result()

        return Noting(None)


async def test_accepted_is_sent_before_the_work_begins() -> None:
    broker = Watching()
    bench = Bench(broker)
    broker.backend = bench.backend
    bench.take()
    await bench.task.finished()
    assert broker.sent == ["accepted"]


async def test_concurrent_then_in_order() -> None:
    bench = Bench(max_running=2, max_queued=2)
    asked = [bench.take() for _ in range(4)]
    await until(lambda: bench.task.running == 2)
    # The waiting ones have been accepted, too.
    await until(lambda: bench.backend.statuses() == ["accepted"] * 4)
    bench.broker.works[1].end.set_result(Result())
    await until(lambda: bench.broker.works[2].begun)
    assert not bench.broker.works[3].begun
    assert bench.answers(asked[1]) == ["accepted", "done"]
    await bench.end()
    assert all(bench.answers(a) == ["accepted", "done"] for a in asked)
    assert bench.task.running == 0


async def test_busy() -> None:
    bench = Bench(max_running=2, max_queued=3)
    asked = [bench.take() for _ in range(7)]
    await until(lambda: bench.task.running == 2)
    assert bench.answers(asked[5]) == bench.answers(asked[6]) == ["rejected"]
    assert bench.reasons()[0].startswith("busy: ")
    # With the current figures and the limits.
    assert "of at most 2 and 3" in bench.reasons()[0]
    late = bench.take()
    await until(lambda: bench.answers(late))
    assert "2 running and 3 waiting, of at most 2 and 3" in bench.reasons()[-1]
    await bench.end()
    again = bench.take()
    await bench.end()
    assert bench.answers(again) == ["accepted", "done"]


async def test_no_queue() -> None:
    bench = Bench(max_running=1, max_queued=0)
    first, second = bench.take(), bench.take()
    await until(lambda: bench.answers(second))
    assert bench.answers(second) == ["rejected"]
    await bench.end()
    assert bench.answers(first) == ["accepted", "done"]


async def test_running_requests_of_a_replaced_task_count() -> None:
    bench = Bench(max_running=1)
    first = bench.take()
    await until(lambda: bench.broker.running)
    replaced = bench.task
    config = task_config(max_running=1, max_queued=2)
    bench.task = Task(
        config, bench.broker, bench.limits, bench.jobs, before=replaced
    )
    second = bench.take()
    await until(lambda: bench.answers(second) == ["accepted"])
    for _ in range(20):
        await asyncio.sleep(0)
    assert [work.begun for work in bench.broker.works] == [True, False]
    bench.broker.works[0].end.set_result(Result())
    await replaced.finished()
    assert bench.answers(first) == ["accepted", "done"]
    await bench.end()
    assert bench.answers(second) == ["accepted", "done"]


async def test_all_tasks_share_the_slots_of_the_agent() -> None:
    limits = agent_limits(slots=1)
    one = Bench(limits=limits, max_running=5, max_queued=1)
    other = Bench(limits=limits, max_running=5, max_queued=1)
    one.take()
    await until(lambda: one.task.running == 1)
    waits, refused = other.take(), other.take()
    await until(lambda: other.answers(refused))
    assert other.answers(waits) == ["accepted"]
    assert other.answers(refused) == ["rejected"]
    assert other.task.running == 0
    await one.end()
    await other.end()
    assert other.answers(waits) == ["accepted", "done"]


ALLOWED = [
    pytest.param("web01", True, id="fits"),
    pytest.param("WEB01", True, id="in-another-case"),
    pytest.param("db01", False, id="does-not-fit"),
    pytest.param("xweb01", False, id="only-in-part"),
]


@pytest.mark.parametrize(("src", "allowed"), ALLOWED)
async def test_allow_src(src: str, allowed: bool) -> None:
    bench = Bench(
        FakeBroker(result=Result()),
        allow_src=("web*", "sp1"),
    )
    bench.take(src=src)
    await bench.task.finished()
    if allowed:
        assert bench.backend.statuses() == ["accepted", "done"]
    else:
        assert bench.reasons() == [
            f"allow_src: '{src}' may not request this task"
        ]


async def test_empty_allow_src() -> None:
    bench = Bench(allow_src=())
    bench.take()
    await bench.task.finished()
    assert bench.backend.statuses() == ["rejected"]


SCHEMA = {
    "type": "object",
    "properties": {"port": {"maximum": 10}},
    "required": ["port"],
}
DATA = [
    pytest.param({"port": 1}, None, id="fits"),
    pytest.param({"port": 99}, "properties/port/maximum: 10", id="value"),
    pytest.param({}, 'required: ["port"]', id="missing"),
    pytest.param(None, 'type: "object"', id="nothing"),
]


@pytest.mark.parametrize(("data", "rule"), DATA)
async def test_data_schema(data: Any, rule: Optional[str]) -> None:
    bench = Bench(FakeBroker(result=Result()), data_schema=SCHEMA)
    bench.take(data)
    await bench.task.finished()
    if rule is None:
        assert bench.backend.statuses() == ["accepted", "done"]
        return
    (reason,) = bench.reasons()
    assert bench.backend.statuses() == ["rejected"]
    assert reason == f"data_schema: data does not satisfy {rule}"


@pytest.mark.parametrize(
    ("items", "is_unique"),
    [
        ([], True),
        ([1, 2, "1", None, False, "", [], {}, 0], True),
        ([1, True], True),
        ([[1], [True], [1, 2], [2, 1]], True),
        ([{"a": 1}, {"a": 1, "b": 1}, {"a": True}, ["a", 1]], True),
        ([1, 1.0], False),
        (["x", "y", "x"], False),
        ([[{"a": [1, {}]}], [{"a": [1.0, {}]}]], False),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
        ([None, None], False),
        ("xx", True),
    ],
)
async def test_unique_items(items: Any, is_unique: bool) -> None:
    bench = Bench(
        FakeBroker(result=Result()), data_schema={"uniqueItems": True}
    )
    asked = bench.take(items)
    await bench.task.finished()
    assert bench.answers(asked)[-1] == ("done" if is_unique else "rejected")


async def test_multiple_of_behind_a_reference() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {"n": {"multipleOf": 0.01}, "inner": {"$ref": "#"}},
    }
    bench = Bench(FakeBroker(result=Result()), data_schema=schema)
    bench.take({"inner": {"n": 1.11}})
    await bench.task.finished()
    assert bench.backend.statuses() == ["accepted", "done"]


async def test_the_rules_in_their_order_and_then_the_room() -> None:
    bench = Bench(
        max_running=1,
        max_queued=0,
        allow_src=("web*",),
        data_schema={"type": "object"},
    )
    bench.take({}, src="web1")
    await until(lambda: bench.task.running == 1)
    bench.broker.refusal = "extra_args are not allowed"
    for src, data, reason in (
        ("client", "x", "allow_src: "),
        ("web1", "x", "data_schema: "),
        ("web1", {}, "extra_args "),
        ("web1", {}, "busy: "),
    ):
        if reason == "busy: ":
            bench.broker.refusal = ""
        asked = bench.take(data, src=src)
        await until(functools.partial(bench.answers, asked))
        assert bench.answers(asked) == ["rejected"]
        assert bench.reasons()[-1].startswith(reason)
    await bench.end()


async def test_reason_does_not_repeat_the_data() -> None:
    bench = Bench(data_schema={"enum": ["a"]})
    bench.take("secret")
    await bench.task.finished()
    assert "secret" not in bench.reasons()[0]


BROKEN_SCHEMAS: List[Any] = [
    pytest.param({"$ref": "#"}, id="without-end"),
    pytest.param({"$ref": "#/nowhere"}, id="dangling"),
    pytest.param({"pattern": "("}, id="no-regular-expression"),
]


@pytest.mark.parametrize("schema", BROKEN_SCHEMAS)
async def test_a_schema_that_cannot_be_applied_rejects(
    schema: Dict[str, Any],
) -> None:
    bench = Bench(data_schema=schema)
    bench.take("x")
    await bench.task.finished()
    assert bench.backend.statuses() == ["rejected"]
    assert bench.reasons()[0]


_ENDS = {"patternProperties": {"^a$": {"type": "integer"}}}
PATTERNS = [
    pytest.param({"pattern": "^a$"}, "a", None, id="at-the-end"),
    pytest.param(
        {"pattern": "^a$"}, "a\n", 'pattern: "^a$"', id="line-feed-after-it"
    ),
    pytest.param({"pattern": "^(a$|b)"}, "a\n", "pattern", id="in-a-group"),
    pytest.param({"pattern": r"^a\$$"}, "a$\n", "pattern", id="after-escaped"),
    pytest.param({"pattern": r"^a\$"}, "a$\n", None, id="escaped"),
    pytest.param({"pattern": "^[$]"}, "$\n", None, id="in-a-class"),
    pytest.param({"pattern": r"^[]\]$]b"}, "$b\n", None, id="odd-class"),
    pytest.param({"pattern": "^[^]$]b"}, "$b", "pattern", id="negated-class"),
    pytest.param(
        {"items": {"$ref": "#/x"}, "x": {"pattern": "a$"}},
        ["a\n"],
        "items/",
        id="behind-a-reference",
    ),
    pytest.param(
        {"const": {"pattern": "a$"}},
        {"pattern": "a$"},
        None,
        id="data-of-this-name",
    ),
    pytest.param(
        {"properties": {"pattern": {"pattern": "a$"}}},
        {"pattern": "a\n"},
        "properties/pattern/pattern",
        id="property-of-this-name",
    ),
    pytest.param(_ENDS, {"a": "x"}, "patternProperties/^a$/type", id="key"),
    pytest.param(_ENDS, {"a\n": "x"}, None, id="key-of-no-pattern"),
    pytest.param(
        {**_ENDS, "additionalProperties": False},
        {"a\n": 1},
        "additionalProperties",
        id="additional",
    ),
    pytest.param(
        {**_ENDS, "additionalProperties": False},
        {"a": 1},
        None,
        id="none-additional",
    ),
    pytest.param(
        {**_ENDS, "unevaluatedProperties": False},
        {"a\n": 1},
        "unevaluatedProperties",
        id="unevaluated",
    ),
    pytest.param(
        {**_ENDS, "properties": {"b": {"$ref": "#/patternProperties/%5Ea$"}}},
        {"b": "x"},
        "properties/b/",
        id="reference-to-a-pattern",
    ),
]


@pytest.mark.parametrize(("schema", "data", "rule"), PATTERNS)
async def test_the_end_in_a_pattern_is_the_very_end(
    schema: Dict[str, Any], data: Any, rule: Optional[str]
) -> None:
    bench = Bench(FakeBroker(result=Result()), data_schema=schema)
    bench.take(data)
    await bench.task.finished()
    if rule is None:
        assert bench.backend.statuses() == ["accepted", "done"]
    else:
        assert f"data does not satisfy {rule}" in bench.reasons()[0]


FORMATS = [
    ("date", "2026-01-31", True),
    ("date", "2026-02-31", False),
    ("date", "20260131", False),
    ("date", "2026-W01-1", False),
    ("email", "a@b", True),
    ("email", "a", False),
    ("idn-email", "\u00e4@b", True),
    ("idn-email", "a", False),
    ("ipv4", "10.0.0.1", True),
    ("ipv4", "10.0.0.256", False),
    ("ipv6", "::1", True),
    ("ipv6", "::1%eth0", False),
    ("regex", "[a-z]", True),
    ("regex", "[a-z", False),
    ("regex", "a{9999999999}", False),
    ("uuid", "cb88ac76-f348-4614-866f-43877b893e7e", True),
    ("uuid", "cb88ac76f3484614866f43877b893e7e", False),
    ("date", 5, True),
    # With a checker or without one on this machine, no other is checked.
    ("time", "x", True),
    ("hostname", "-", True),
    ("uri", ":", True),
    ("date-time", "x", True),
]


@pytest.mark.parametrize(("name", "value", "is_valid"), FORMATS)
async def test_formats(
    name: str, value: Any, is_valid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python may collect the garbage of other tests meanwhile.
    monkeypatch.setattr(check_time, "LONGEST", 10.0)
    bench = Bench(FakeBroker(result=Result()), data_schema={"format": name})
    bench.take(value)
    await bench.task.finished()
    if is_valid:
        assert bench.backend.statuses() == ["accepted", "done"]
    else:
        assert bench.reasons() == [
            f'data_schema: data does not satisfy format: "{name}"'
        ]


MULTIPLES = [
    pytest.param(0.01, 1.11, True, id="decimal"),
    pytest.param(0.01, 1.115, False, id="too-fine"),
    pytest.param(0.01, 10**400, True, id="large"),
    pytest.param(0.3, 10**400, False, id="large-but-no-multiple"),
    pytest.param(1e-300, 1e300, True, id="far-apart"),
    pytest.param(0.1, -0.3, True, id="negative"),
    pytest.param(2.5, 5, True, id="integer-of-decimal"),
    pytest.param(2, 4.0, True, id="decimal-of-integer"),
    pytest.param(3, 10**400, False, id="integers"),
    pytest.param(1e16, 3e16, True, id="exponents"),
    pytest.param(0.01, "1.115", True, id="no-number"),
    pytest.param(3, True, True, id="truth-is-no-number"),
]


@pytest.mark.parametrize(("divisor", "number", "is_multiple"), MULTIPLES)
async def test_multiple_of_is_decimal(
    divisor: float, number: Any, is_multiple: bool
) -> None:
    schema = {"properties": {"n": {"multipleOf": divisor}}}
    bench = Bench(FakeBroker(result=Result()), data_schema=schema)
    bench.take({"n": number})
    await bench.task.finished()
    if is_multiple:
        assert bench.backend.statuses() == ["accepted", "done"]
    else:
        (reason,) = bench.reasons()
        rule = f"properties/n/multipleOf: {divisor}"
        assert reason == f"data_schema: data does not satisfy {rule}"


ENDLESS: List[Any] = [
    pytest.param({"pattern": "^(a|a)*b$"}, "a" * 60, id="pattern"),
]


@pytest.mark.parametrize(("schema", "data"), ENDLESS)
async def test_a_check_that_takes_too_long_rejects(
    schema: Dict[str, Any], data: Any
) -> None:
    bench = Bench(data_schema=schema)
    bench.take(data)
    await bench.task.finished()
    assert bench.backend.statuses() == ["rejected"]
    assert "takes more than" in bench.reasons()[0]


async def test_a_long_check_does_not_delay_those_of_other_tasks() -> None:
    limits = agent_limits()
    endless = {"pattern": "^(a|a)*b$"}
    tasks = [
        Bench(FakeBroker(), limits, data_schema=endless) for _ in range(3)
    ]
    for bench in tasks:
        bench.take("a" * 60)
    first, *others = [bench.reasons() for bench in tasks]
    assert first == ["the data takes more than 0.03 s to check"]
    # Those end sooner: the loop has other work now.
    assert all(reason.startswith("busy: ") for (reason,) in others)
    quick = Bench(FakeBroker(result=Result()), limits, data_schema={})
    asked = quick.take({"a": 1})
    assert quick.answers(asked) == ["accepted"]
    await quick.task.finished()


def quick_one(bench: Bench) -> Optional[Request]:
    """Take a quick request; return it if it is accepted."""
    asked = bench.take("b")
    return asked if bench.answers(asked) == ["accepted"] else None


async def test_a_task_has_a_share_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_time, "SHARE", 1e-9)
    bench = Bench(
        FakeBroker(result=Result()), data_schema={"pattern": "^(a|a)*b$"}
    )
    bench.take("a" * 60)
    bench.take("b")
    assert bench.backend.statuses() == ["rejected"] * 2
    assert [r.startswith("busy: ") for r in bench.reasons()] == [False, True]
    monkeypatch.setattr(check_time, "SHARE", 1e9)
    # For a moment, the loop has other work.
    again = await until(lambda: quick_one(bench))
    await bench.task.finished()
    assert bench.answers(again) == ["accepted", "done"]


async def test_the_brokers_checks_are_limited_too() -> None:
    class Endless(FakeBroker):
        def prepare(self, request: Request) -> Any:
            while True:
                pass

    bench = Bench(Endless())
    bench.take("x")
    assert bench.backend.statuses() == ["rejected"]
    assert "takes more than" in bench.reasons()[0]


async def test_memory_of_all_tasks_is_limited() -> None:
    limits = agent_limits(memory=2 * LEAST + 100_000)
    bench = Bench(limits=limits, max_running=1)
    other = Bench(limits=limits)
    first = bench.take("x" * 90_000)
    second = other.take()
    late = other.take("x" * 20_000)
    assert bench.answers(first) == other.answers(second) == ["accepted"]
    assert other.answers(late) == ["rejected"]
    (reason,) = other.reasons()
    assert reason.startswith("busy: the requests that wait and run take ")
    await until(lambda: bench.task.running)
    await bench.end()
    await other.end()
    again = other.take("x" * 90_000)
    assert other.answers(again) == ["accepted"]
    await other.end()


@pytest.mark.parametrize("fields", [{"allow_src": ()}, {"max_running": 0}])
async def test_rejected_requests_hold_no_memory(
    fields: Dict[str, Any],
) -> None:
    bench = Bench(
        limits=agent_limits(memory=10 * LEAST), **{"max_queued": 0, **fields}
    )
    for _ in range(30):
        bench.take("x")
    assert not any("memory" in reason for reason in bench.reasons())
    assert not any("take" in reason for reason in bench.reasons())


async def test_a_waiting_request_keeps_only_its_text() -> None:
    bench = Bench(max_running=1)
    asked = [bench.take([[]] * 100) for _ in range(2)]
    assert bench.backend.statuses() == ["accepted"] * 2
    for request_ in asked:
        assert request_.data == [[]] * 100
        assert request_.data is not request_.data
    await bench.end()


async def test_a_slot_is_held_until_a_large_answer_is_sent() -> None:
    bench = Bench(FakeBroker(result=Result("x" * 100_000)), max_running=1)
    left = asyncio.Event()

    async def send_large(
        address: str, encode: Any, size: int, ref: Optional[str]
    ) -> None:
        await left.wait()
        bench.backend.send(address, encode(), ref)

    bench.backend.send_large = send_large  # type: ignore[method-assign]
    first = bench.take()
    await until(lambda: bench.answers(first) == ["accepted"])
    second = bench.take()
    await until(lambda: bench.answers(second) == ["accepted"])
    for _ in range(20):
        await asyncio.sleep(0)
    assert [work.begun for work in bench.broker.works] == [True, False]
    assert bench.task.running == 1
    left.set()
    await bench.task.finished()
    for asked in (first, second):
        assert bench.answers(asked) == ["accepted", "done"]


async def test_cancelled_while_a_large_answer_is_sent() -> None:
    bench = Bench(FakeBroker(result=Result("x" * 100_000)))
    asked = bench.take()
    await until(lambda: any(work.begun for work in bench.broker.works))
    bench.jobs.abort()
    await bench.task.finished()
    assert bench.answers(asked) == ["accepted", "done"]


async def test_cancelled_at_once() -> None:
    bench = Bench(FakeBroker())
    asked = bench.take()
    bench.jobs.abort()
    await bench.task.finished()
    assert bench.answers(asked) == ["accepted", "error"]
    for work in bench.broker.works:
        assert work.end.cancelled() or not work.begun


@pytest.mark.parametrize(
    ("schema", "status"), [(True, "done"), (False, "rejected")]
)
async def test_data_schema_that_is_true_or_false(
    schema: bool, status: str
) -> None:
    bench = Bench(FakeBroker(result=Result()), data_schema=schema)
    asked = bench.take({"a": 1})
    await bench.task.finished()
    assert bench.answers(asked)[-1] == status


async def test_backend_that_fails_takes_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(
        FakeBroker(result=Result()),
        agent_limits(memory=LEAST),
        max_running=1,
        max_queued=0,
    )
    with monkeypatch.context() as broken:
        broken.setattr(bench.backend, "send", None)
        with pytest.raises(TypeError):
            bench.take()
    asked = bench.take()
    await bench.task.finished()
    assert bench.answers(asked) == ["accepted", "done"]


async def test_refusal_of_the_broker_is_a_rejection() -> None:
    bench = Bench()
    bench.broker.refusal = "extra_args are not allowed"
    bench.take()
    await bench.task.finished()
    assert bench.backend.statuses() == ["rejected"]
    assert bench.reasons() == ["extra_args are not allowed"]


class Crashing(FakeBroker):
    """A broker with a bug.

    :param returns: the result of its work; None to raise instead
    """

    def __init__(self, in_prepare: bool, returns: Any = None) -> None:
        super().__init__()
        self._in_prepare = in_prepare
        self._returns = returns

    def prepare(self, request: Request) -> Any:
        if self._in_prepare:
            raise ZeroDivisionError("a bug")
        return CrashingWork(self._returns)


class CrashingWork(Work):
    def __init__(self, returns: Any) -> None:
        self._returns = returns

    async def run(self) -> Result:
        if self._returns is None:
            raise ZeroDivisionError("a bug")
        if isinstance(self._returns, dict):
            return Result(**self._returns)
        return cast(Result, self._returns)

    def stop(self) -> None:
        """Nothing to stop."""


BUGS = [
    pytest.param((True,), ["rejected"], id="in-prepare"),
    pytest.param((False,), ["accepted", "error"], id="in-run"),
    pytest.param((False, "text"), ["accepted", "error"], id="no-result"),
    pytest.param(
        (False, {"data": {"a": 1}}), ["accepted", "error"], id="data-no-text"
    ),
]


@pytest.mark.parametrize(("bug", "statuses"), BUGS)
async def test_a_bug_of_a_broker_is_answered(
    bug: Any, statuses: List[str], journal_records: Records
) -> None:
    failed: List[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(context))
    bench = Bench(Crashing(*bug), max_running=1)
    for _ in range(3):
        bench.take()
        await bench.task.finished()
    assert bench.backend.statuses() == statuses * 3
    assert "the agent has failed" in bench.reasons()[0]
    (record, *_) = journal_records.of(journal.BUG)
    assert record.exc_info
    assert record.NGCP_TASK == "ping"
    assert record.NGCP_TASK_UUID == bench.backend.responses()[0]["ref"]
    assert record.NGCP_TASK_SRC == "client"
    assert not failed


async def test_stop_ends_waiting_requests_at_once() -> None:
    bench = Bench(max_running=1, max_queued=2)
    asked = [bench.take() for _ in range(3)]
    await until(lambda: bench.task.running == 1)
    bench.task.refuse()
    await until(lambda: len(bench.answers(asked[2])) == 2)
    assert bench.answers(asked[0]) == ["accepted"]
    for waiting in asked[1:]:
        assert bench.answers(waiting) == ["accepted", "error"]
    assert "stopping" in bench.reasons()[0]
    late = bench.take()
    await until(lambda: bench.answers(late))
    assert bench.answers(late) == ["rejected"]
    bench.jobs.stop()
    await bench.task.finished()
    assert bench.broker.works[0].stopped
    assert bench.answers(asked[0]) == ["accepted", "error"]


async def test_cancel_still_answers() -> None:
    bench = Bench()
    asked = bench.take()
    await until(lambda: bench.task.running == 1)
    bench.jobs.abort()
    await bench.task.finished()
    assert bench.answers(asked) == ["accepted", "error"]
    assert bench.task.running == 0


async def test_cancel_while_waiting_for_a_slot() -> None:
    bench = Bench(max_running=1)
    asked = [bench.take(), bench.take()]
    await until(lambda: bench.task.running == 1)
    await until(lambda: bench.answers(asked[1]))
    bench.jobs.abort()
    await bench.task.finished()
    for one in asked:
        assert bench.answers(one) == ["accepted", "error"]


async def test_finished_waits_for_all() -> None:
    bench = Bench()
    await bench.task.finished()
    bench.take()
    waiter = asyncio.create_task(bench.task.finished())
    await until(lambda: bench.task.running == 1)
    assert not waiter.done()
    await bench.end()
    await waiter


STEPS: List[Tuple[int, int]] = [(1, 0), (2, 1), (8, 64)]


@pytest.mark.parametrize(("running", "queued"), STEPS)
async def test_a_flood_is_answered_in_full(running: int, queued: int) -> None:
    """Each request is accepted or rejected; as many as fit are accepted."""
    bench = Bench(max_running=running, max_queued=queued)
    asked = [bench.take() for _ in range(100)]
    await bench.end()
    answers = [bench.answers(one) for one in asked]
    taken = answers.count(["accepted", "done"])
    assert taken == min(100, running + queued)
    assert answers.count(["rejected"]) == 100 - taken


# How long a request may wait for its turn.


@pytest.mark.parametrize(
    ("max_wait", "options", "says"),
    [
        (0.02, {}, "0.02"),
        (0, {"expires": 0.02}, "0.02"),
        (60, {"expires": 0.02}, "0.02"),
        (0.02, {"expires": 60}, "0.02"),
    ],
)
async def test_a_request_that_waits_too_long(
    max_wait: float, options: Dict[str, Any], says: str
) -> None:
    bench = Bench(max_running=1, max_wait=max_wait)
    options = {"feedback_channel": "feedback", **options}
    runs = bench.take(options=options)
    waits = bench.take(options=options)
    await until(lambda: bench.answers(waits) == ["accepted", "error"])
    assert bench.reasons() == [f"waited more than {says} s"]
    # It has left the queue; what runs has the time it needs.
    assert (bench.task.running, bench.task.queued) == (1, 0)
    assert bench.answers(runs) == ["accepted"]
    assert len(bench.broker.works) == 2
    assert not bench.broker.works[1].begun
    await bench.end()
    assert bench.answers(runs) == ["accepted", "done"]
    assert bench.limits.slots.taken == 0


async def test_a_request_whose_turn_comes_in_time() -> None:
    bench = Bench(max_running=1, max_wait=60)
    first, second = bench.take(), bench.take()
    await bench.end()
    for asked in (first, second):
        assert bench.answers(asked) == ["accepted", "done"]


@pytest.mark.parametrize("rounds", range(8))
async def test_a_turn_that_comes_at_that_moment(rounds: int) -> None:
    bench = Bench(max_running=1, max_wait=0.001)
    bench.take()
    waits = bench.take()
    await until(lambda: bench.task.running)
    for _ in range(rounds):
        await asyncio.sleep(0)
    bench.broker.works[0].end.set_result(Result())
    await asyncio.sleep(0.002)
    await bench.end()
    first, ending = bench.answers(waits)
    assert first == "accepted"
    assert ending in ("done", "error")
    assert bench.limits.slots.taken == bench.task.running == 0


@pytest.mark.parametrize(
    "expires", [0, -1, "1", True, [1], 1e9, 10**400], ids=str
)
async def test_expires_that_is_no_time(expires: Any) -> None:
    bench = Bench()
    options = {"feedback_channel": "feedback", "expires": expires}
    bench.take(options=options)
    assert bench.backend.statuses() == ["rejected"]
    assert "options.expires" in bench.reasons()[0]


async def test_work_that_takes_no_slot() -> None:
    limits = agent_limits(slots=1)
    ordinary = Bench(limits=limits)
    ordinary.take()
    await until(lambda: limits.slots.taken == 1)

    class Slotless(FakeBroker):
        takes_slot = False

    bench = Bench(Slotless(), limits=limits, max_running=1, max_queued=0)
    bench.take()
    await until(lambda: bench.task.running)
    # Its own limits hold.
    bench.take()
    assert bench.backend.statuses() == ["accepted", "rejected"]
    await bench.end()
    assert bench.backend.statuses()[2:] == ["done"]
    await ordinary.end()
