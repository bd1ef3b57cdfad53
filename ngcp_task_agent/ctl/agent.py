"""What asks the running agent: all commands but ``check`` and ``log``."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import time
from typing import (
    Any,
    Awaitable,
    Callable,
    Dict,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from ngcp_task_agent.ctl import output
from ngcp_task_agent.ctl.failure import EX_CONFIG, EX_NOPERM, FAILED, Failure
from ngcp_task_agent.ctl.records import canonical, utc_time
from ngcp_task_agent.display import facts, span
from ngcp_task_agent.errors import (
    AgentError,
    BusAway,
    BusError,
    NotAllowed,
)
from ngcp_task_agent.logs.lines import printable
from ngcp_task_agent.management import reload as reloading
from ngcp_task_agent.management.client import RunningAgent
from ngcp_task_agent.management.interface import (
    AgentState,
    JobState,
    TaskState,
)

T = TypeVar("T")

UNIT = "ngcp-task-agent.service"
_SYSTEMCTL_WITHIN = 5.0  # seconds
_COUNTED = ("accepted", "done", "error", "rejected", "busy")


class _Whole(NamedTuple):
    """All that ``status`` shows."""

    state: AgentState
    tasks: Tuple[TaskState, ...]
    jobs: Tuple[JobState, ...]


def ask(
    question: Callable[[RunningAgent], Awaitable[T]],
    within: Optional[float] = None,
) -> T:
    """Ask the running agent.  Blocks, for no longer than its deadlines.

    :param within: seconds for all of it, if those are too long
    :raises BusAway: if there is no bus, or no agent on it
    :raises Failure: if it refuses or fails
    """

    async def asked() -> T:
        async with RunningAgent() as agent:
            return await question(agent)

    try:
        return asyncio.run(asyncio.wait_for(asked(), within))
    except NotAllowed as error:
        raise Failure(str(error), EX_NOPERM) from None
    except BusError as error:
        raise Failure(str(error), FAILED) from None


def _ask(question: Callable[[RunningAgent], Awaitable[T]]) -> T:
    """As ask(), for commands that are of no use without an agent.

    :raises Failure: also if there is none
    """
    try:
        return ask(question)
    except BusAway as error:
        raise Failure(_advise(error), FAILED) from None


def _advise(error: BusAway) -> str:
    return f"{error}; see: systemctl status ngcp-task-agent"


# The commands; each returns the exit status, and raises Failure.


def status(options: argparse.Namespace) -> int:
    async def whole(agent: RunningAgent) -> _Whole:
        return _Whole(
            await agent.state(), await agent.tasks(), await agent.jobs()
        )

    try:
        found = ask(whole)
    except BusAway as error:
        return _show_absent(error, options.json)
    if options.json:
        output.write_json(_as_json(found))
    else:
        output.write(_text(found))
    return 0


def tasks(options: argparse.Namespace) -> int:
    found = _ask(lambda agent: agent.tasks())
    if options.json:
        output.write_json([task._asdict() for task in found])
    else:
        rows = [
            [
                *(task.name, task.backend, task.channel, task.broker),
                *(str(task.running), str(task.queued), task.description),
            ]
            for task in found
        ]
        headings = ("Task", "Backend", "Channel", "Broker")
        more = ("Running", "Queued", "Description")
        output.write(output.table((*headings, *more), rows, right=(4, 5)))
    return 0


def jobs(options: argparse.Namespace) -> int:
    found = _ask(lambda agent: agent.jobs())
    if options.json:
        output.write_json(list(map(_job_as_json, found)))
    else:
        output.write(_jobs_table(found))
    return 0


def cancel(options: argparse.Namespace) -> int:
    uuid = canonical(options.uuid)
    if not _ask(lambda agent: agent.cancel(uuid)):
        raise Failure(
            f"no request '{options.uuid}' runs or waits; see: "
            f"{output.PROGRAM} jobs",
            FAILED,
        )
    output.write(f"cancelled {printable(uuid)}\n")
    return 0


def reload(options: argparse.Namespace) -> int:
    try:
        faults, signalled = asyncio.run(reloading.ask())
    except AgentError as error:
        is_refused = isinstance(error, NotAllowed)
        status = EX_NOPERM if is_refused else FAILED
        raise Failure(str(error), status) from None
    if signalled:
        output.write(f"{signalled}\n")
    output.write_error("".join(f"{printable(fault)}\n" for fault in faults))
    return EX_CONFIG if faults else 0


# What they show.


def _text(found: _Whole) -> str:
    state, node = found.state, found.state.node
    labels = [f"{key}={value}" for key, value in node["labels"].items()]
    known = {
        "Agent": state.version,
        "Node": ", ".join([node["name"], *node["aliases"]]),
        "Roles": ", ".join(node["roles"]),
        "State": node["state"],
        "Status": node["status"],
        "Labels": ", ".join(labels),
        "Requests": _counts(found.state.counters.totals),
    }
    by_task = state.counters.tasks
    rows = [
        [
            *(task.name, task.backend, str(task.running), str(task.queued)),
            *(str(by_task.get(task.name, {}).get(w, 0)) for w in _COUNTED),
        ]
        for task in found.tasks
    ]
    headings = ("Task", "Backend", "Running", "Queued")
    counts = [what.capitalize() for what in _COUNTED]
    parts = [
        facts(known),
        output.table(("Backend", "State", "Reason"), state.backends),
        output.table((*headings, *counts), rows, right=range(2, 9)),
    ]
    if found.jobs:
        parts.append(_jobs_table(found.jobs))
    return "\n".join(parts)


def _counts(totals: Mapping[str, int]) -> str:
    """Return the numbers of requests, those that include others first."""

    def these(*outcomes: str) -> str:
        return ", ".join(f"{totals.get(o, 0)} {o}" for o in outcomes)

    return (
        f"{these('received')}: {these('ignored', 'rejected')} "
        f"({these('busy', 'duplicates')}), {these('accepted')} "
        f"({these('done', 'error')})"
    )


def _jobs_table(found: Sequence[JobState]) -> str:
    now = time.time()
    rows = [
        [
            *(job.uuid, job.task, job.src, job.state),
            span(now - job.since / 1e6),
            str(job.pid or "-"),
        ]
        for job in found
    ]
    headings = ("Request", "Task", "From", "State", "For", "PID")
    return output.table(headings, rows, right=(4, 5))


def _as_json(found: _Whole) -> Dict[str, Any]:
    state = found.state
    by_task = state.counters.tasks
    return {
        "is_on_bus": True,
        "version": state.version,
        "node": state.node,
        "backends": [backend._asdict() for backend in state.backends],
        "tasks": [
            {**task._asdict(), "counters": by_task.get(task.name, {})}
            for task in found.tasks
        ],
        "jobs": list(map(_job_as_json, found.jobs)),
        "counters": state.counters.totals,
    }


def _job_as_json(job: JobState) -> Dict[str, Any]:
    return {**job._asdict(), "since": utc_time(job.since / 1e6)}


def _show_absent(error: BusAway, as_json: bool) -> int:
    """Show what systemd knows about an agent that is not on the bus."""
    service = _service()
    if as_json:
        output.write_json(
            {"is_on_bus": False, "reason": str(error), "service": service}
        )
        return FAILED
    activity = f"{service.get('ActiveState')} ({service.get('SubState')})"
    known = {
        "Agent": f"cannot be asked: {error}",
        "Service": activity if service else "",
        "Status": service.get("StatusText", ""),
    }
    output.write(facts(known))
    return FAILED


def _service() -> Dict[str, str]:
    """Return properties of the unit; none where systemd does not run."""
    wanted = "--property=ActiveState,SubState,StatusText"
    try:
        done = subprocess.run(
            ["systemctl", "show", wanted, UNIT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SYSTEMCTL_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = done.stdout.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
