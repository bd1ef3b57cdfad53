"""Text for people: what nodes send must not control the terminal."""

from __future__ import annotations

from typing import List, Tuple

from ngcp_task_agent.client.outcome import NodeOutcome, RequestOutcome, Verdict
from ngcp_task_agent.client.responses import ReceivedResponse, Status
from ngcp_task_agent.display import seconds
from ngcp_task_agent.logs.lines import printable

_MOST_NAMES = 100
_REASON = 500  # characters


def first_line(data: str, width: int) -> str:
    """Return the first line, cut to a width, with a mark if there is more."""
    lines = data.strip("\n").split("\n", 1)
    line = printable(lines[0][: width + 1])
    if len(line) > width:
        return _cut(line, width)
    return line + (" …" if len(lines) > 1 else "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def of_response(response: ReceivedResponse) -> str:
    """Describe a response in one line."""
    line = f"{printable(response.node)}: {response.status.value}"
    if response.status is not Status.REJECTED:
        line += f" after {seconds(response.seconds)}"
    reason = printable(_cut(response.reason, _REASON))
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
    problems = []
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
    return problems


def names(nodes: Tuple[NodeOutcome, ...]) -> str:
    """List the nodes' names; if there are very many, the first ones."""
    listed = [printable(node.node) for node in nodes[:_MOST_NAMES]]
    if len(nodes) > _MOST_NAMES:
        listed.append(f"and {len(nodes) - _MOST_NAMES} more")
    return ", ".join(listed)
