"""Text for people: what remote nodes say must not steer the terminal."""

from __future__ import annotations

import re

from ngcp_task_agent.client.outcome import NodeOutcome, Outcome, Verdict
from ngcp_task_agent.client.responses import Response, Status

_NAMES = 100  # that are listed
_REASON = 500  # characters
# Only a hint: what is not ASCII can be as sound.
_ODD = re.compile(r"[^\n\t -~]+")


def plain(text: str) -> str:
    """The text with all that is not printable written as an escape.

    Control characters could move the cursor or forge a line; others that do
    not print could turn the reading direction.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else _escape(letter) for letter in text
    )


def for_terminal(text: str) -> str:
    """The same, but for what makes it lines and columns."""
    return _ODD.sub(lambda found: plain(found[0]), text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def seconds(value: float) -> str:
    """A duration: finer where it is short."""
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def first_line(data: str, width: int) -> str:
    """The first line, cut to a width, with a mark where there is more."""
    lines = data.strip("\n").split("\n", 1)
    line = plain(lines[0][: width + 1])
    if len(line) > width:
        return _cut(line, width)
    return line + (" …" if len(lines) > 1 else "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def of_response(response: Response) -> str:
    """One line about a response."""
    line = f"{plain(response.node)}: {response.status.value}"
    if response.status is not Status.REJECTED:
        line += f" after {seconds(response.seconds)}"
    reason = plain(_cut(response.reason, _REASON))
    return f"{line}: {reason}" if reason else line


def of_problems(outcome: Outcome) -> list[str]:
    """What went wrong besides what the nodes have said themselves."""
    waited = seconds(outcome.seconds)
    if outcome.verdict is Verdict.UNANSWERED:
        return [
            f"nobody answered within {waited}: no agent listens there (-v "
            "tells where the request went), none of those that do is meant "
            f"by '{plain(outcome.request.dst)}', or its answer cannot reach "
            "this client (its journal says so)"
        ]
    problems = []
    if outcome.unfinished and (not outcome.expected or outcome.missing):
        # Agents accept at once what may have to wait there for its turn.
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


def names(nodes: tuple[NodeOutcome, ...]) -> str:
    """The nodes' names; of very many the first."""
    listed = [plain(node.node) for node in nodes[:_NAMES]]
    if len(nodes) > _NAMES:
        listed.append(f"and {len(nodes) - _NAMES} more")
    return ", ".join(listed)
