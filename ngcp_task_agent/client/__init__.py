"""Run tasks on nodes: the client of ngcp-task-agent.

    async with Client(find("reload")) as client:
        outcome = await client.run("reload", "*|state=active;role=proxy")

or, in a script without asyncio, ``outcome = run_task("reload", "prx*")``.
"""

from __future__ import annotations

from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.client import Client, run_task
from ngcp_task_agent.client.discovery import Address, find
from ngcp_task_agent.client.errors import (
    ClientError,
    ConnectionLost,
    InvalidRequest,
    NoAddress,
    RedisUnavailable,
)
from ngcp_task_agent.client.fleet import FleetJob, FleetNode, FleetTask

# Users need no longer name; within the package, agents have their own
# Request, Response and Outcome.
from ngcp_task_agent.client.outcome import NodeOutcome, Verdict
from ngcp_task_agent.client.outcome import RequestOutcome as Outcome
from ngcp_task_agent.client.progress import LiveLine
from ngcp_task_agent.client.requests import OutgoingRequest as Request
from ngcp_task_agent.client.responses import ReceivedResponse as Response
from ngcp_task_agent.client.responses import Status
from ngcp_task_agent.client.url import parse_url
from ngcp_task_agent.client.waiting import Patience

__all__ = [
    "Address",
    "Call",
    "Client",
    "ClientError",
    "ConnectionLost",
    "FleetJob",
    "FleetNode",
    "FleetTask",
    "InvalidRequest",
    "LiveLine",
    "NoAddress",
    "NodeOutcome",
    "Outcome",
    "Patience",
    "RedisUnavailable",
    "Request",
    "Response",
    "Status",
    "Verdict",
    "find",
    "parse_url",
    "run_task",
]
