"""What agents say of themselves: nodes, tasks and jobs.

The answers to the built-in tasks, see ngcp-task-agent-protocol(7).  Any agent
may send anything: what is malformed is left out, and what is long is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ngcp_task_agent.client.outcome import NodeOutcome, RequestOutcome
from ngcp_task_agent.client.responses import Status
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.protocol.messages import load_json

PING = "ngcp.ping"
DESCRIBE = "ngcp.describe"
JOBS = "ngcp.jobs"
CANCEL = "ngcp.cancel"

_LARGEST = 4 << 20  # characters of an answer that are parsed
_MOST = 10_000  # tasks, jobs, roles and the like of one node
_LONGEST = 1000  # characters of a text
_HIGHEST = 1e15  # of numbers: later than any clock


@dataclass(frozen=True)
class FleetNode:
    """A node that has answered.

    :ivar aliases: its other names
    :ivar version: the agent's, or empty: it has not said more than its name
    :ivar uptime: the agent's, in seconds
    :ivar running: how many requests run, of all tasks
    :ivar queued: how many wait
    :ivar reason: why the version is empty, such as ``unknown task`` of an
        older agent
    """

    name: str
    aliases: Tuple[str, ...] = ()
    roles: Tuple[str, ...] = ()
    state: str = ""
    status: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    uptime: Optional[float] = None
    running: Optional[int] = None
    queued: Optional[int] = None
    reason: str = ""


@dataclass(frozen=True)
class FleetTask:
    """A task that a node has on the control channel.

    :ivar data_schema: the JSON Schema for ``data``, or None
    :ivar extra_args: whether it takes any
    :ivar timeout: seconds that it may run; 0 without a limit, None if the
        agent does not say
    :ivar max_running: how many requests may run at once
    """

    node: str
    name: str
    description: str = ""
    broker: str = ""
    data_schema: Any = None
    extra_args: bool = False
    timeout: Optional[float] = None
    max_running: Optional[int] = None
    running: Optional[int] = None
    queued: Optional[int] = None


@dataclass(frozen=True)
class FleetJob:
    """A request that runs or waits on a node.

    :ivar src: who has sent it
    :ivar state: ``running`` or ``queued``
    :ivar since: by the node's clock, in seconds after 1970
    :ivar pid: of its process, if it has one
    """

    node: str
    uuid: str
    task: str
    src: str
    state: str
    since: float
    pid: Optional[int] = None


def nodes_of(outcome: RequestOutcome) -> List[FleetNode]:
    """Return all nodes that have answered, from the outcome of ngcp.ping."""
    return list(map(_node, outcome.nodes))


def tasks_of(outcome: RequestOutcome) -> List[FleetTask]:
    """Return the tasks, from the outcome of ngcp.describe."""
    return [
        FleetTask(
            node.node,
            _text(task, "name"),
            _text(task, "description"),
            _text(task, "broker"),
            _schema(task),
            task.get("extra_args") is True,
            _number(task, "timeout"),
            _count(task, "max_running"),
            _count(task, "running"),
            _count(task, "queued"),
        )
        for node in outcome.nodes
        for task in _objects(node, "tasks")
        if _text(task, "name")
    ]


def jobs_of(outcome: RequestOutcome) -> List[FleetJob]:
    """Return the jobs, from the outcome of ngcp.jobs."""
    return [
        FleetJob(
            node.node,
            _text(job, "uuid"),
            _text(job, "task"),
            _text(job, "src"),
            _text(job, "state"),
            _number(job, "since") or 0.0,
            _count(job, "pid"),
        )
        for node in outcome.nodes
        for job in _objects(node, "jobs")
        if _text(job, "uuid")
    ]


def cancelled_on(outcome: RequestOutcome) -> List[str]:
    """Return the nodes that ended a job, from the outcome of ngcp.cancel."""
    return [
        node.node
        for node in outcome.nodes
        if _count(_answer(node) or {}, "cancelled")
    ]


def _node(node: NodeOutcome) -> FleetNode:
    answer = _answer(node)
    if answer is None:
        reason = node.reason
        if node.status is Status.ACCEPTED:
            reason = "it has accepted the request and not ended it"
        elif node.status is Status.DONE:
            reason = "its answer cannot be read"
        return FleetNode(node.node, reason=reason)
    about = answer.get("node")
    facts: Dict[str, Any] = about if isinstance(about, dict) else {}
    version = _text(answer, "version")
    return FleetNode(
        node.node,
        _texts(facts, "aliases"),
        _texts(facts, "roles"),
        _text(facts, "state"),
        _text(facts, "status"),
        _labels(facts),
        version,
        _number(answer, "uptime"),
        _count(answer, "running"),
        _count(answer, "queued"),
        "" if version else "its answer has no version",
    )


def _answer(node: NodeOutcome) -> Optional[Dict[str, Any]]:
    """Parse what a built-in task has returned; None if it is no object."""
    data = node.data
    if node.status is not Status.DONE or not data or len(data) > _LARGEST:
        return None
    try:
        # Bounded, as one node's answer must not spoil the JSON of all.
        return dict(load_json(data))
    except Rejected:
        return None


def _objects(node: NodeOutcome, key: str) -> Iterator[Dict[str, Any]]:
    found = (_answer(node) or {}).get(key)
    for item in found[:_MOST] if isinstance(found, list) else ():
        if isinstance(item, dict):
            yield item


def _schema(task: Mapping[str, Any]) -> Any:
    """Return the JSON Schema; None if it has a wrong type."""
    found = task.get("data_schema")
    return found if isinstance(found, (dict, bool)) else None


def _text(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    return value[:_LONGEST] if isinstance(value, str) else ""


def _texts(answer: Mapping[str, Any], key: str) -> Tuple[str, ...]:
    found = answer.get(key)
    if not isinstance(found, list):
        return ()
    return tuple(v[:_LONGEST] for v in found[:_MOST] if isinstance(v, str))


def _labels(facts: Mapping[str, Any]) -> Dict[str, str]:
    found = facts.get("labels")
    if not isinstance(found, dict) or len(found) > _MOST:
        return {}
    return {k[:_LONGEST]: _text(found, k) for k in found}


def _number(answer: Mapping[str, Any], key: str) -> Optional[float]:
    """Return a number from 0; None for anything else."""
    value = answer.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= _HIGHEST else None


def _count(answer: Mapping[str, Any], key: str) -> Optional[int]:
    value = _number(answer, key)
    return value if isinstance(value, int) else None
