"""The ``agent`` broker: answers for the agent itself, about it.

What the answers contain is in ngcp-task-agent-protocol(7), "Built-in tasks".
"""

from __future__ import annotations

import json
import re
from typing import Any, AsyncIterator, Dict, Mapping, NamedTuple, Optional

from ngcp_task_agent import __version__
from ngcp_task_agent.brokers.base import AgentView, Broker, Result, Work
from ngcp_task_agent.errors import CannotCancel, Rejected
from ngcp_task_agent.logs.lines import printable
from ngcp_task_agent.protocol.messages import Request

#: The tasks that every agent has, and the answer of each.
BUILT_IN: Mapping[str, str] = {
    "ngcp.ping": "ping",
    "ngcp.describe": "describe",
    "ngcp.jobs": "jobs",
    "ngcp.cancel": "cancel",
}
# How many at once: lists of thousands take the loop's time, and a job may take
# long to end.
_AT_ONCE = {"ngcp.describe": 1, "ngcp.jobs": 1, "ngcp.cancel": 64}

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)


def at_once(task: str) -> int:
    """Return a built-in task's ``max_running``."""
    return _AT_ONCE.get(task, 8)


class AgentBroker(Broker):
    """Gives the answer that a task names."""

    options_schema = {
        "type": "object",
        "required": ["answer"],
        "additionalProperties": False,
        "properties": {
            "answer": {
                "enum": [*BUILT_IN.values()],
                "title": f"one of {', '.join(BUILT_IN.values())}",
            },
        },
    }
    takes_slot = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._answer: str = options["answer"]
        self._agent: Optional[AgentView] = None

    def start(self, agent: AgentView) -> None:
        self._agent = agent

    def prepare(self, request: Request) -> Work:
        assert self._agent, "start() comes first"
        if self._answer == "cancel":
            return _Cancellation(self._agent, _ref(request), request.src)
        return _Report(self._agent, self._answer)


def _ref(request: Request) -> str:
    """
    :raises Rejected: when the data does not name a request
    """
    data = request.data
    ref = data.get("ref") if isinstance(data, dict) else None
    if not isinstance(ref, str) or not _UUID.fullmatch(ref):
        raise Rejected('data must be {"ref": UUID}: the request to cancel')
    return ref


class _Report(Work):
    """Describes the agent, as JSON."""

    def __init__(self, agent: AgentView, answer: str) -> None:
        self._agent = agent
        self._answer = answer

    async def run(self) -> Result:
        report = {} if self._answer == "jobs" else await self._about()
        parts = [f'"{name}": {_json(value)}' for name, value in report.items()]
        if self._answer == "describe":
            parts.append(await _list("tasks", self._agent.tasks()))
        elif self._answer == "jobs":
            parts.append(await _list("jobs", self._agent.jobs()))
        return Result(f"{{{', '.join(parts)}}}")

    async def _about(self) -> Dict[str, Any]:
        running = jobs = 0
        async for job in self._agent.jobs():
            jobs += 1
            running += job.state == "running"
        return {
            "version": __version__,
            "node": self._agent.node(),
            "uptime": round(self._agent.uptime, 3),
            "running": running,
            "queued": jobs - running,
        }

    def stop(self) -> None:
        """It ends soon by itself."""


async def _list(name: str, rows: AsyncIterator[NamedTuple]) -> str:
    # Row by row: to encode thousands at once would block the event loop.
    texts = [_json(row._asdict()) async for row in rows]
    return f'"{name}": [{", ".join(texts)}]'


def _json(value: Any) -> str:
    # YAML has dates, which a data_schema may contain.
    return json.dumps(value, default=str)


class _Cancellation(Work):
    """Cancels the job of a request."""

    def __init__(self, agent: AgentView, ref: str, by: str) -> None:
        self._agent = agent
        self._ref = ref
        self._by = by

    async def run(self) -> Result:
        try:
            found = await self._agent.cancel(self._ref, printable(self._by))
        except CannotCancel as error:
            return Result(error=f"{error}")
        return Result(json.dumps({"cancelled": int(found)}))

    def stop(self) -> None:
        """It ends with the job, which the agent stops, too."""
