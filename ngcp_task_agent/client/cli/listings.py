"""What the agents say of themselves, as tables, names and JSON."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import asdict
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Set, Tuple

from ngcp_task_agent import display
from ngcp_task_agent.client import fleet
from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.action import is_terminal
from ngcp_task_agent.client.cli.seen import Seen
from ngcp_task_agent.client.fleet import FleetJob, FleetNode, FleetTask
from ngcp_task_agent.client.outcome import RequestOutcome
from ngcp_task_agent.display import in_order
from ngcp_task_agent.logs.lines import printable

_FEW = 3  # names of nodes in a cell
_SPECIAL = frozenset(",|*?[")  # in a dst


class Listing(NamedTuple):
    """One of the questions that agents answer.

    :ivar name: its name in the JSON form
    :ivar task: the built-in task
    :ivar found: takes the list from its outcome, in the order to show it
    :ivar as_json: makes an object of one of the list
    :ivar shown: makes a text of the list, which is not empty
    :ivar seen: takes the words for completion
    """

    name: str
    task: str
    found: Callable[[RequestOutcome], List[Any]]
    as_json: Callable[[Any], Any]
    shown: Callable[[Sequence[Any]], str]
    seen: Callable[[Sequence[Any]], Seen]


def _table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
) -> str:
    """Make a table; no node takes much room in it."""
    rows = [[text.cut(cell) for cell in row] for row in rows]
    is_drawn = is_terminal(sys.stdout) and not display.is_dumb()
    return display.table(headings, rows, right, is_drawn=is_drawn)


# --nodes


def _nodes(outcome: RequestOutcome) -> List[FleetNode]:
    return sorted(fleet.nodes_of(outcome), key=lambda n: in_order(n.name))


def _nodes_shown(found: Sequence[FleetNode]) -> str:
    rows = [
        [
            *(node.name, ", ".join(node.roles), node.state, node.status),
            node.version,
            "" if node.uptime is None else display.span(node.uptime),
            "" if node.running is None else str(node.running),
            "" if node.queued is None else str(node.queued),
            node.reason,
        ]
        for node in found
    ]
    headings = ["Node", "Roles", "State", "Status", "Version", "Uptime"]
    headings += ["Running", "Queued", "Note"]
    if not any(node.reason for node in found):
        headings.pop()
        rows = [row[:-1] for row in rows]
    return _table(headings, rows, right=(5, 6, 7))


def names(found: Sequence[FleetNode]) -> str:
    """Return the names that can be targets of a ``dst``, a line each."""
    return "".join(f"{n.name}\n" for n in found if _is_target(n.name))


def _is_target(name: str) -> bool:
    """Whether a ``dst`` of this name means one node; ``*`` means all."""
    return (
        name.isprintable()
        and name == name.strip()
        and not set(name) & _SPECIAL
        and not name.startswith("-")  # would be an option
        and name.lower() not in ("local", "localhost")
    )


def _nodes_seen(found: Sequence[FleetNode]) -> Seen:
    options: Set[str] = set()
    for node in found:
        if not node.version:
            continue  # it has said no more than its name
        options.update(f"role={role}" for role in node.roles)
        options.update({f"state={node.state}", f"status={node.status}"})
        options.update(f"{key}={v}" for key, v in node.labels.items())
    return {"nodes": [n.name for n in found], "options": sorted(options)}


# --tasks


def _tasks(outcome: RequestOutcome) -> List[FleetTask]:
    return sorted(
        fleet.tasks_of(outcome),
        key=lambda t: (t.name, in_order(t.node)),
    )


def _tasks_shown(found: Sequence[FleetTask]) -> str:
    """Make a row of what is the same on several nodes."""
    nodes: Dict[Tuple[str, str], List[str]] = defaultdict(list)
    for task in found:
        nodes[task.name, task.description].append(task.node)
    rows = [
        [name, text.listed(on, _FEW), description]
        for (name, description), on in nodes.items()
    ]
    return _table(("Task", "Nodes", "Description"), rows)


def _tasks_seen(found: Sequence[FleetTask]) -> Seen:
    return {"tasks": sorted({task.name for task in found})}


# --jobs


def _jobs(outcome: RequestOutcome) -> List[FleetJob]:
    return sorted(fleet.jobs_of(outcome), key=lambda job: job.since)


def _jobs_shown(found: Sequence[FleetJob]) -> str:
    now = time.time()
    rows = [
        [
            *(job.node, job.uuid, job.task, job.src, job.state),
            display.span(now - job.since),
            str(job.pid or "-"),
        ]
        for job in found
    ]
    headings = ("Node", "Request", "Task", "From", "State", "For", "PID")
    return _table(headings, rows, right=(5, 6))


def _jobs_seen(found: Sequence[FleetJob]) -> Seen:
    return {"jobs": list(dict.fromkeys(job.uuid for job in found))}


# --cancel


def _cancelled(outcome: RequestOutcome) -> List[str]:
    return sorted(fleet.cancelled_on(outcome), key=in_order)


def _cancelled_shown(found: Sequence[str]) -> str:
    return "".join(f"{printable(n)}: cancelled\n" for n in found)


def _cancelled_as_json(found: str) -> Dict[str, str]:
    return {"node": found}


def _nothing_seen(found: Sequence[str]) -> Seen:
    return {}


#: By the option.
LISTINGS = {
    "nodes": Listing(
        "nodes",
        fleet.PING,
        _nodes,
        asdict,
        _nodes_shown,
        _nodes_seen,
    ),
    "tasks": Listing(
        "tasks",
        fleet.DESCRIBE,
        _tasks,
        asdict,
        _tasks_shown,
        _tasks_seen,
    ),
    "jobs": Listing(
        "jobs",
        fleet.JOBS,
        _jobs,
        asdict,
        _jobs_shown,
        _jobs_seen,
    ),
    "cancel": Listing(
        "cancelled",
        fleet.CANCEL,
        _cancelled,
        _cancelled_as_json,
        _cancelled_shown,
        _nothing_seen,
    ),
}
