"""The ``agent`` broker: the built-in tasks, which the agent itself does."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, Awaitable, Callable, Dict, Iterable, Mapping, Optional

from ngcp_task_agent.brokers.base import (
    AgentView,
    Broker,
    JobView,
    Result,
    TaskView,
    Work,
)
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.logs.lines import cut, printable
from ngcp_task_agent.protocol.messages import Request

_ANSWERS = ("ping", "describe", "jobs", "cancel")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
#: Bytes of a request: it may have to wait, and needs few.
LONGEST = 32768
_LONGEST_BY = 300  # bytes of who has cancelled a job

# Seconds of the event loop's time in a row.
_SLICE = 0.001
# A long answer is good for this many times as long as it took to make, so that
# a flood of questions gets little of the event loop's time.
_KEEP = 10

_encode = json.JSONEncoder().encode


class AgentBroker(Broker):
    """Describes the agent and its jobs, and ends a job.

    If an answer takes long to make, several requests can get the same one.
    """

    options_schema = {
        "type": "object",
        "required": ["answer"],
        "additionalProperties": False,
        "properties": {
            "answer": {
                "enum": [*_ANSWERS],
                "title": "'ping', 'describe', 'jobs' or 'cancel'",
            },
        },
    }
    takes_slot = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._answer: str = options["answer"]
        self._agent: Optional[AgentView] = None
        self._kept: Optional[str] = None
        self._kept_of = 0  # the agent's generation
        self._good_until = 0.0  # monotonic

    def start(self, agent: AgentView) -> None:
        self._agent = agent

    def prepare(self, request: Request) -> Work:
        assert self._agent, "start() comes first"
        if request.size > LONGEST:
            raise Rejected(
                f"the message has more than {LONGEST} bytes, which is too "
                "much for this task"
            )
        if self._answer == "cancel":
            by = cut(printable(request.src), _LONGEST_BY)
            return _Cancel(self._agent, _ref(request.data), by)
        answers = {
            "ping": self._ping,
            "describe": self._describe,
            "jobs": self._jobs,
        }
        return _Answer(answers[self._answer])

    async def _ping(self) -> str:
        assert self._agent
        return _encode(_about(self._agent))

    async def _describe(self) -> str:
        agent = self._agent
        assert agent
        return await self._list(_about(agent), "tasks", agent.tasks(), _task)

    async def _jobs(self) -> str:
        agent = self._agent
        assert agent
        return await self._list({}, "jobs", agent.jobs(), _job)

    async def _list(
        self,
        fields: Mapping[str, Any],
        name: str,
        rows: Iterable[Any],
        as_object: Callable[[Any], Mapping[str, Any]],
    ) -> str:
        """Return an object with a list of rows, or one made a moment ago."""
        agent, begin = self._agent, time.monotonic()
        assert agent
        generation = agent.generation
        is_good = begin < self._good_until and generation == self._kept_of
        if self._kept is not None and is_good:
            return self._kept
        texts, pause, took = [], time.perf_counter() + _SLICE, 0.0
        for row in rows:
            texts.append(_encode(as_object(row)))
            if time.perf_counter() >= pause:
                took += _SLICE
                await asyncio.sleep(0)
                pause = time.perf_counter() + _SLICE
        start = _encode({**fields, name: []})[: -len("]}")]
        made = "".join((start, ", ".join(texts), "]}"))
        if took:
            self._kept, self._kept_of = made, generation
            self._good_until = time.monotonic() + _KEEP * took
            asyncio.get_running_loop().call_at(self._good_until, self._drop)
        return made

    def _drop(self) -> None:
        """Free an answer that is too old."""
        if time.monotonic() >= self._good_until:
            self._kept = None


class _Answer(Work):
    """One answer, which takes so little time that it need not be stopped."""

    def __init__(self, make: Callable[[], Awaitable[str]]) -> None:
        self._make = make

    async def run(self) -> Result:
        return Result(data=await self._make())

    def stop(self) -> None:
        pass


class _Cancel(Work):
    """The end of a request's job, if there is one."""

    def __init__(self, agent: AgentView, uuid: str, by: str) -> None:
        self._agent = agent
        self._uuid = uuid
        self._by = by
        self._step: Optional[asyncio.Future[int]] = None
        self._is_stopped = False

    async def run(self) -> Result:
        self._step = asyncio.ensure_future(
            self._agent.cancel(self._uuid, self._by)
        )
        if self._is_stopped:
            self._step.cancel()
        try:
            cancelled = await self._step
        except TimeoutError:
            return Result(
                error=f"the work for request '{self._uuid}' does not end: "
                "its broker ignores that it was cancelled"
            )
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
            return Result(error="the agent is stopping")
        return Result(data=_encode({"cancelled": min(cancelled, 1)}))

    def stop(self) -> None:
        self._is_stopped = True
        if self._step:
            self._step.cancel()


def _ref(data: Any) -> str:
    """Return the uuid of the request to cancel.

    :raises Rejected: when the data has none
    """
    ref = data.get("ref") if isinstance(data, dict) else None
    if not isinstance(ref, str) or not _UUID.fullmatch(ref):
        raise Rejected(
            'data must be an object such as {"ref": UUID}, with the uuid of '
            "the request to cancel"
        )
    return ref


def _about(agent: AgentView) -> Dict[str, Any]:
    running, queued = agent.counts()
    return {
        "version": agent.version,
        "node": agent.identity().described(),
        "uptime": round(agent.uptime, 3),
        "running": running,
        "queued": queued,
    }


def _task(task: TaskView) -> Dict[str, Any]:
    return task._asdict()


def _job(job: JobView) -> Dict[str, Any]:
    fields = job._asdict()
    fields["since"] = round(job.since, 3)
    if job.pid is None:
        del fields["pid"]
    return fields
