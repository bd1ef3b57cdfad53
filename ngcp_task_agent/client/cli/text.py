"""Text for people: what nodes send must not control the terminal."""

from __future__ import annotations

import re
from typing import List, Tuple

from ngcp_task_agent.client.outcome import NodeOutcome, RequestOutcome, Verdict
from ngcp_task_agent.client.responses import ReceivedResponse, Status

_MOST_NAMES = 100
_REASON = 500  # characters
# Fast, and wrong only about text that plain() leaves as it is.
_SUSPECT = re.compile(r"[^\n\t -~]+")


def plain(text: str) -> str:
    """The text, with all that is not printable written as an escape.

    Control characters could move the cursor or forge a line; others could
    reverse the direction of the text.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def for_terminal(text: str) -> str:
    """As plain(), but line feeds and tabs stay."""
    return _SUSPECT.sub(lambda found: plain(found[0]), text)


def encode_for_terminal(text: str) -> bytes:
    return for_terminal(text).encode()


def encode_as_it_is(text: str) -> bytes:
    # Half a surrogate pair, which JSON can hold, cannot be encoded.
    return text.encode(errors="replace")


def seconds(value: float) -> str:
    """A duration: the shorter, the finer."""
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def first_line(data: str, width: int) -> str:
    """The first line, cut to a width, with a mark if there is more."""
    lines = data.strip("\n").split("\n", 1)
    line = plain(lines[0][: width + 1])
    if len(line) > width:
        return _cut(line, width)
    return line + (" …" if len(lines) > 1 else "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def of_response(response: ReceivedResponse) -> str:
    """One line about a response."""
    line = f"{plain(response.node)}: {response.status.value}"
    if response.status is not Status.REJECTED:
        line += f" after {seconds(response.seconds)}"
    reason = plain(_cut(response.reason, _REASON))
    return f"{line}: {reason}" if reason else line


def of_problems(outcome: RequestOutcome) -> List[str]:
    """What went wrong besides what the nodes themselves have reported."""
    waited = seconds(outcome.seconds)
    if outcome.verdict is Verdict.UNANSWERED:
        return [
            f"no node answered within {waited}: no agent listens there (-v "
            "shows where the request went), no agent there matches "
            f"'{plain(outcome.request.dst)}', or its answer cannot reach "
            "this client (see the agent's journal)"
        ]
    problems = []
    if outcome.unfinished and (not outcome.expected or outcome.missing):
        # Agents accept at once what may then wait in their queue.
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
    """The nodes' names; of very many the first."""
    listed = [plain(node.node) for node in nodes[:_MOST_NAMES]]
    if len(nodes) > _MOST_NAMES:
        listed.append(f"and {len(nodes) - _MOST_NAMES} more")
    return ", ".join(listed)
