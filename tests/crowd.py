"""Many nodes, played by one: they answer as agents do, and run nothing."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Tuple

from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.identity import Identity


@dataclass
class Played:
    """A node.

    :param ends: how it ends a request: ``done``, ``error`` or ``rejected``;
        or ``never`` after it has accepted, or ``silent``
    :param is_old: whether it knows no built-in tasks
    """

    name: str
    aliases: Tuple[str, ...] = ()
    roles: Tuple[str, ...] = ()
    state: str = "active"
    ends: str = "done"
    data: str = ""
    is_old: bool = False

    def identity(self) -> Identity:
        names = frozenset(n.lower() for n in (self.name, *self.aliases))
        facts = {
            "state": (self.state,),
            "status": ("online",),
            "role": self.roles,
        }
        return Identity(self.name, names, facts)

    def ping(self) -> str:
        """Return the data of ``ngcp.ping``."""
        return json.dumps(
            {
                "version": "1.6.0",
                "node": {
                    "name": self.name,
                    "aliases": list(self.aliases),
                    "roles": list(self.roles),
                    "state": self.state,
                    "status": "online",
                    "labels": {},
                },
                "uptime": 60.0,
                "running": 0,
                "queued": 0,
            }
        )


class Crowd:
    """Nodes that share a control channel.

    :ivar requests: those that were received, pings excepted
    :ivar ran: the names of the nodes that took a request, pings excepted
    """

    def __init__(self, *nodes: Played) -> None:
        self.nodes = nodes
        self.requests: List[Dict[str, Any]] = []
        self.ran: List[str] = []

    def __getitem__(self, name: str) -> Played:
        return next(node for node in self.nodes if node.name == name)

    def answers(self, request: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        """Make the responses to a request."""
        is_ping = request["task"] == "ngcp.ping"
        if not is_ping:
            self.requests.append(request)
        dst = destination.parse(request["dst"])
        for node in self.nodes:
            if not dst.matches(node.identity(), request["src"]):
                continue
            if is_ping:
                ends = "rejected" if node.is_old else "done"
                data, reason = node.ping(), "unknown task 'ngcp.ping'"
            else:
                self.ran.append(node.name)
                ends = node.ends
                data, reason = node.data, "as the test wants it"
            yield from _answers(request, node.name, ends, data, reason)


def _answers(
    request: Dict[str, Any], node: str, ends: str, data: str, reason: str
) -> Iterator[Dict[str, Any]]:
    if ends in ("done", "error", "never"):
        yield _answer(request, node, "accepted", "", None)
    if ends in ("done", "error"):
        why = reason if ends == "error" else ""
        yield _answer(request, node, ends, why, data)
    if ends == "rejected":
        yield _answer(request, node, ends, reason, None)


def _answer(
    request: Dict[str, Any], node: str, status: str, reason: str, data: Any
) -> Dict[str, Any]:
    return {
        "uuid": str(uuid.uuid4()),
        "ref": request["uuid"],
        "task": request["task"],
        "src": node,
        "dst": request["src"],
        "status": status,
        "reason": reason,
        "data": data,
    }
