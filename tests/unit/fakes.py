"""Fakes for what surrounds the module under test."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from pathlib import Path
from typing import (
    AbstractSet,
    Any,
    AsyncIterator,
    Callable,
    Dict,
    FrozenSet,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import pytest

from ngcp_task_agent.backends.base import Arrival, Backend
from ngcp_task_agent.brokers.base import (
    Broker,
    JobFacts,
    Result,
    TaskFacts,
    Work,
)
from ngcp_task_agent.config.models import TaskConfig
from ngcp_task_agent.errors import NoReplyAddress, Rejected
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.protocol.messages import Request, parse_request
from ngcp_task_agent.requests.limits import Limits

WITHIN = 30.0  # seconds that anything may take on a busy machine
CHANNEL = "control"

is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can do this")


class Records:
    """The journal's records so far."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __iter__(self) -> Any:
        return iter(self._caplog.records)

    def of(self, kind: Any) -> List[Any]:
        """Return the records of one kind."""
        return [
            record
            for record in self._caplog.records
            if getattr(record, "MESSAGE_ID", None) == kind.message_id
        ]

    def texts(self, kind: Any) -> List[str]:
        return [record.getMessage() for record in self.of(kind)]


async def until(what: Callable[[], Any], within: float = WITHIN) -> Any:
    """Let others run until ``what`` is true, and return its value."""
    deadline = time.monotonic() + within
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s"
        await asyncio.sleep(0.005)


def has_children() -> bool:
    """Whether there is a child process, running or zombie."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def identity(
    *names: str,
    state: str = "active",
    status: str = "online",
    roles: Sequence[str] = (),
    **labels: str,
) -> Identity:
    """Return a node's identity; the first name is the one in its answers."""
    facts: Dict[str, Tuple[str, ...]] = {
        "state": (state,),
        "status": (status,),
        "role": tuple(roles),
    }
    facts.update({key: (value,) for key, value in labels.items()})
    lower: FrozenSet[str] = frozenset(name.lower() for name in names)
    return Identity(names[0], lower, facts)


def message(**fields: Any) -> Dict[str, Any]:
    """Return a valid request from a client, with some fields replaced."""
    return {
        "uuid": str(uuid.uuid4()),
        "task": "ping",
        "src": "client",
        "dst": "*",
        "options": {"feedback_channel": "feedback"},
        "data": None,
        **fields,
    }


def body(**fields: Any) -> bytes:
    return json.dumps(message(**fields)).encode()


def request(data: Any = None, **fields: Any) -> Request:
    """Return a request as parsed."""
    return parse_request(body(data=data, **fields), 1 << 30)


def task_config(**fields: Any) -> TaskConfig:
    """Return a task's configuration as parsed."""
    return TaskConfig(Path("x.yml"), "ping", "fake", CHANNEL, "fake", **fields)


def agent_limits(slots: int = 64, memory: int = 64 << 20) -> Limits:
    limits = Limits()
    limits.slots.limit = slots
    limits.max_request_memory = memory
    return limits


class FakeBackend(Backend):
    """Records what it should send."""

    options_schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"port": {"type": "integer"}},
    }
    task_options_schema = {
        "type": "object",
        "required": ["queue"],
        "additionalProperties": False,
        "properties": {"queue": {"type": "string", "title": "a queue"}},
    }

    def __init__(
        self,
        name: str = "fake",
        options: Optional[Mapping[str, Any]] = None,
        receive: Callable[[Arrival], None] = lambda arrival: None,
    ) -> None:
        super().__init__(name, options or {}, receive)
        self.channels: AbstractSet[str] = frozenset()
        self.sent: List[Tuple[str, bytes, Optional[str]]] = []
        self.calls: List[str] = []

    @classmethod
    def channel(cls, task_options: Mapping[str, Any]) -> str:
        return str(task_options["queue"])

    @property
    def status(self) -> str:
        return "listening"

    async def start(self, channels: AbstractSet[str]) -> None:
        self.calls.append("start")
        self.channels = channels

    async def listen(self, channels: AbstractSet[str]) -> None:
        self.calls.append("listen")
        self.channels = channels

    def reply_address(self, options: Mapping[str, Any]) -> str:
        try:
            return str(options["feedback_channel"])
        except KeyError:
            raise NoReplyAddress("feedback_channel is missing") from None

    def send(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        self.sent += [(address, m, ref) for m in messages]

    async def stop_listening(self) -> None:
        self.calls.append("stop_listening")

    async def stop(self, timeout: float) -> None:
        self.calls.append("stop")

    def responses(self) -> List[Dict[str, Any]]:
        """Return what was sent, parsed."""
        return [json.loads(message) for _, message, _ in self.sent]

    def statuses(self) -> List[str]:
        return [response["status"] for response in self.responses()]

    def arrive(
        self,
        what: bytes,
        channel: str = CHANNEL,
        via_own_server: bool = False,
    ) -> None:
        """Let a message arrive from a control channel."""
        self.receive(Arrival(self, channel, what, via_own_server))


class FakeWork(Work):
    """Runs until end() sets its result, or until it is stopped."""

    def __init__(self) -> None:
        self.begun = False
        self.stopped = False
        self.end: asyncio.Future[Result] = (
            asyncio.get_running_loop().create_future()
        )

    async def run(self) -> Result:
        self.begun = True
        return await self.end

    def stop(self) -> None:
        self.stopped = True
        if not self.end.done():
            self.end.set_result(Result(error="stopped"))


class FakeBroker(Broker):
    """Records the work that it was asked for.

    :param result: returned at once by all work; None to wait
    """

    options_schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "bad": {"type": "boolean"},
            "problem": {"type": "string"},
        },
    }

    def __init__(
        self,
        options: Optional[Mapping[str, Any]] = None,
        result: Optional[Result] = None,
    ) -> None:
        super().__init__(options or {})
        if self.options.get("bad"):
            raise ValueError("these options do not fit together")
        self._result = result
        self.works: List[FakeWork] = []
        self.requests: List[Request] = []
        self.refusal = ""

    def problems(self) -> Mapping[str, str]:
        return {k: w for k, w in self.options.items() if k == "problem"}

    def prepare(self, request: Request) -> FakeWork:
        if self.refusal:
            raise Rejected(self.refusal)
        work = FakeWork()
        if self._result:
            work.end.set_result(self._result)
        self.works.append(work)
        self.requests.append(request)
        return work

    @property
    def running(self) -> List[FakeWork]:
        return [w for w in self.works if w.begun and not w.end.done()]


def write(path: Path, text: str) -> Path:
    """Write a file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class FakeView:
    """An agent with one task and some jobs.

    :ivar cancelled: the uuids that were to be cancelled, and by whom
    """

    def __init__(self, folder: Path = Path("/etc/ngcp-task-agent")) -> None:
        self.folder = folder
        self.uptime = 12.3456
        self.facts: List[TaskFacts] = []
        self.rows: List[JobFacts] = []
        self.cancelled: List[Tuple[str, str]] = []

    def node(self) -> Dict[str, Any]:
        return identity("sp1", "sp1.example.org").described()

    async def tasks(self) -> AsyncIterator[TaskFacts]:
        for facts in self.facts:
            yield facts

    async def jobs(self) -> AsyncIterator[JobFacts]:
        for row in self.rows:
            yield row

    async def cancel(self, uuid: str, by: str) -> bool:
        self.cancelled.append((uuid, by))
        return uuid in [row.uuid for row in self.rows]
