"""Many nodes, played by one: they answer as agents do, and run nothing."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.identity import Identity

JOB = "cb88ac76-f348-4614-866f-43877b893e7e"


@dataclass
class Played:
    """A node.

    :param ends: how it ends a request: ``done``, ``error`` or ``rejected``;
        or ``never`` after it has accepted, or ``silent``; or ``deaf`` to the
        built-in tasks, too
    :param data: what its tasks write
    :param reason: why they fail, if they do
    :param is_old: whether it knows no built-in tasks
    :param tasks: that it describes, with their descriptions
    :param jobs: the uuids of what runs there
    """

    name: str
    aliases: Sequence[str] = ()
    roles: Sequence[str] = ()
    state: str = "active"
    labels: Mapping[str, str] = field(default_factory=dict)
    ends: str = "done"
    data: str = ""
    reason: str = "as the test wants it"
    is_old: bool = False
    tasks: Mapping[str, str] = field(
        default_factory=lambda: {"reload": "Load the routes again."}
    )
    jobs: List[str] = field(default_factory=list)

    def identity(self) -> Identity:
        names = frozenset(n.lower() for n in (self.name, *self.aliases))
        facts = {
            "state": (self.state,),
            "status": ("online",),
            "role": tuple(self.roles),
            **{key: (value,) for key, value in self.labels.items()},
        }
        return Identity(self.name, names, facts)

    def answers(self, request: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        """Make the responses to a request."""
        task = request["task"]
        ends, data, reason = self.ends, self.data, self.reason
        if task.startswith("ngcp.") and ends != "deaf":
            ends, reason = "done", f"unknown task '{task}'"
            if self.is_old:
                ends = "rejected"
            else:
                data = json.dumps(self._built_in(task, request["data"]))
        if ends in ("done", "error", "never"):
            yield answer(request, self.name, "accepted")
        if ends == "done":
            yield answer(request, self.name, ends, data=data)
        if ends == "error":
            yield answer(request, self.name, ends, data=data, reason=reason)
        if ends == "rejected":
            yield answer(request, self.name, ends, reason=reason)

    def _built_in(self, task: str, data: Any) -> Dict[str, Any]:
        if task == "ngcp.ping":
            return self._facts()
        if task == "ngcp.describe":
            return {**self._facts(), "tasks": list(self._described())}
        if task == "ngcp.jobs":
            return {"jobs": list(self._running())}
        count = self.jobs.count(data["ref"])
        if count:
            self.jobs.remove(data["ref"])
        return {"cancelled": count}

    def _facts(self) -> Dict[str, Any]:
        return {
            "version": "1.6.0",
            "node": {
                "name": self.name,
                "aliases": list(self.aliases),
                "roles": list(self.roles),
                "state": self.state,
                "status": "online",
                "labels": dict(self.labels),
            },
            "uptime": 7384.5,
            "running": len(self.jobs),
            "queued": 0,
        }

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
        for job in self.jobs:
            yield {
                "uuid": job,
                "task": "reload",
                "src": "web01",
                "state": "running",
                "since": time.time() - 61,
                "pid": 4711,
            }


class Crowd:
    """Nodes that share a control channel.

    :ivar requests: those that were received, built-in tasks excepted
    :ivar ran: the names of the nodes that took one of these
    """

    def __init__(self, *nodes: Played) -> None:
        self.nodes = list(nodes)
        self.requests: List[Dict[str, Any]] = []
        self.ran: List[str] = []

    def __getitem__(self, name: str) -> Played:
        return next(node for node in self.nodes if node.name == name)

    def answers(self, request: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        """Make the responses to a request."""
        is_built_in = request["task"].startswith("ngcp.")
        if not is_built_in:
            self.requests.append(request)
        dst = destination.parse(request["dst"])
        for node in self.nodes:
            if dst.matches(node.identity(), request["src"]):
                if not is_built_in:
                    self.ran.append(node.name)
                yield from node.answers(request)


def answer(
    request: Dict[str, Any], node: str, status: str, **more: Any
) -> Dict[str, Any]:
    """Make a response to a request, as an agent sends it."""
    return {
        "uuid": str(uuid.uuid4()),
        "ref": request["uuid"],
        "task": request["task"],
        "src": node,
        "dst": request["src"],
        "status": status,
        "reason": "",
        "data": "" if status in ("done", "error") else None,
        **more,
    }
