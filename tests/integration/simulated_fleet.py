"""A fleet of simulated agents, which know the built-in tasks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.identity import Identity
from tests.integration.conftest import answer

JOB = "cb88ac76-f348-4614-866f-43877b893e7e"


@dataclass
class SimulatedNode:
    """What a node is, and how its agent behaves.

    :ivar is_old: it does not know the built-in tasks
    :ivar is_deaf: it does not answer
    :ivar output: what its tasks write
    :ivar reason: why they fail, if they do
    :ivar jobs: the uuids of what runs there
    """

    name: str
    roles: Sequence[str] = ()
    state: str = "active"
    status: str = "online"
    labels: Mapping[str, str] = field(default_factory=dict)
    is_old: bool = False
    is_deaf: bool = False
    output: str = ""
    reason: str = ""
    tasks: Mapping[str, str] = field(
        default_factory=lambda: {"reload": "Load the routes again."}
    )
    jobs: List[str] = field(default_factory=list)

    def identity(self) -> Identity:
        facts = {
            "state": (self.state,),
            "status": (self.status,),
            "role": tuple(self.roles),
            **{key: (value,) for key, value in self.labels.items()},
        }
        return Identity(self.name, frozenset({self.name.lower()}), facts)

    def facts(self) -> Dict[str, Any]:
        return {
            "version": "1.6.0",
            "node": {
                "name": self.name,
                "aliases": [],
                "roles": list(self.roles),
                "state": self.state,
                "status": self.status,
                "labels": dict(self.labels),
            },
            "uptime": 7384.5,
            "running": len(self.jobs),
            "queued": 0,
        }

    def answers(self, request: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        task = request["task"]
        if self.is_deaf:
            return
        data: Any
        if task.startswith("ngcp.") and not self.is_old:
            data = json.dumps(self._built_in(task, request["data"]))
        elif task in self.tasks:
            data = self.output
        else:
            reason = f"unknown task '{task}'"
            yield answer(request, self.name, "rejected", reason=reason)
            return
        yield answer(request, self.name, "accepted")
        status = "error" if self.reason and data is self.output else "done"
        reason = self.reason if status == "error" else ""
        yield answer(request, self.name, status, data=data, reason=reason)

    def _built_in(self, task: str, data: Any) -> Dict[str, Any]:
        if task == "ngcp.ping":
            return self.facts()
        if task == "ngcp.describe":
            return {**self.facts(), "tasks": list(self._described())}
        if task == "ngcp.jobs":
            return {"jobs": list(self._running())}
        count = self.jobs.count(data["ref"])
        if count:
            self.jobs.remove(data["ref"])
        return {"cancelled": count}

    def _described(self) -> Iterator[Dict[str, Any]]:
        for name, description in self.tasks.items():
            yield {
                "name": name,
                "description": description,
                "broker": "command",
                "data_schema": None,
                "extra_args": False,
                "timeout": 300,
                "max_running": 8,
                "running": 0,
                "queued": 0,
            }

    def _running(self) -> Iterator[Dict[str, Any]]:
        for uuid in self.jobs:
            yield {
                "uuid": uuid,
                "task": "reload",
                "src": "web01",
                "state": "running",
                "since": time.time() - 61,
                "pid": 4711,
            }


def script(nodes: Sequence[SimulatedNode]) -> Any:
    """Return the script of an agent that stands for all these nodes."""

    def answers(request: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        dst = destination.parse(request["dst"])
        for node in nodes:
            if dst.matches(node.identity(), request["src"]):
                yield from node.answers(request)

    return answers
