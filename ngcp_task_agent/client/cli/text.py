"""Text for people: what nodes send must not control the terminal."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from ngcp_task_agent.client.outcome import NodeOutcome, RequestOutcome, Verdict
from ngcp_task_agent.client.responses import ReceivedResponse, Status
from ngcp_task_agent.display import seconds
from ngcp_task_agent.logs.lines import printable

MOST_NAMES = 100
NO_ANSWER = "no answer"
_REASON = 500  # characters


def first_line(data: str, width: int) -> str:
    """Return the first line, cut to a width, with a mark if there is more."""
    lines = data.strip("\n").split("\n", 1)
    line = printable(lines[0][: width + 1])
    if len(line) > width:
        return cut(line, width)
    return line + (" …" if len(lines) > 1 else "")


def cut(text: str, width: int = _REASON) -> str:
    """Cut a text to a number of characters, with a mark where it is."""
    return text if len(text) <= width else text[: width - 1] + "…"


def of_response(response: ReceivedResponse) -> str:
    """Describe a response in one line."""
    line = f"{printable(response.node)}: {response.status.value}"
    if response.status is not Status.REJECTED:
        line += f" after {seconds(response.seconds)}"
    reason = printable(cut(response.reason))
    return f"{line}: {reason}" if reason else line


def of_problems(outcome: RequestOutcome) -> List[str]:
    """List what went wrong, apart from what the nodes themselves reported."""
    waited = seconds(outcome.seconds)
    if outcome.verdict is Verdict.UNANSWERED:
        return [
            f"no node answered within {waited}: no agent listens there (-v "
            "shows where the request went), no agent there matches "
            f"'{printable(outcome.request.dst)}', or its answer cannot reach "
            "this client (see the agent's journal)"
        ]
    doubled = [node.node for node in outcome.nodes if node.doubled]
    problems = list(map(not_unique, doubled[:MOST_NAMES]))
    if outcome.unfinished and (not outcome.expected or outcome.missing):
        # Agents accept requests at once, even those that must wait in a queue.
        problems.append(
            f"accepted but not ended after {waited} (running or queued): "
            + names(outcome.unfinished)
        )
    if outcome.missing:
        concluded = (outcome.expected or 0) - outcome.missing
        problems.append(
            f"ended or rejected within {waited}: only {concluded} of the "
            f"{outcome.expected} expected"
        )
    gone = outcome.missing_nodes
    problems += [f"{printable(n)}: {NO_ANSWER}" for n in gone[:MOST_NAMES]]
    if len(gone) > MOST_NAMES:
        problems.append(f"{len(gone) - MOST_NAMES} more: {NO_ANSWER}")
    return problems


def not_unique(name: str) -> str:
    return (
        f"several nodes call themselves '{printable(name)}': node names must "
        "be unique"
    )


def of_unused(outcome: RequestOutcome) -> List[str]:
    """Name the nodes whose task could not use the data, and say what to do."""
    unused = tuple(node for node in outcome.nodes if node.unused)
    if not unused:
        return []
    return [
        f"{names(unused)}: the task could not use --data, which is no "
        "object or too large for $NGCP_TASK_DATA: give "
        """'{"extra_args": ["WORD"]}' for words of its command line, or """
        "write 'stdin: data' into the task's file"
    ]


def names(nodes: Tuple[NodeOutcome, ...]) -> str:
    """List the nodes' names; if there are very many, the first ones."""
    return listed([node.node for node in nodes])


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """List names that strangers chose; if there are more, the first ones."""
    shown = [printable(name) for name in names[:most]]
    if len(names) > most:
        shown.append(f"and {len(names) - most} more")
    return ", ".join(shown)
