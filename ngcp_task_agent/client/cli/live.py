"""The live view: a table of the nodes on the terminal, while they work."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import IO, Optional, Tuple, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ngcp_task_agent import background
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.report import Stderr, View, stderr
from ngcp_task_agent.client.outcome import NodeOutcome, Outcome
from ngcp_task_agent.client.responses import Status

_EVERY = 0.25  # seconds
_FRAME = 6  # lines of the view that are no node's
_NARROW = 40  # columns
_MOST = 500  # nodes: more take seconds to draw
_REASON = 500  # characters
_HEADINGS = ("Node", "State", "Accepted after", "Time", "Reason")
_STYLES = {  # what needs attention first
    Status.ERROR: "red",
    Status.REJECTED: "magenta",
    Status.ACCEPTED: "yellow",
    Status.DONE: "green",
}
_WORDS = {Status.ACCEPTED: "running"}

Nodes = Tuple[NodeOutcome, ...]


class LiveView(View):
    """Per node: who runs since when, who ended how; stays at the end.

    Of more nodes than the terminal has lines the others are only counted.
    """

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        # No thread: whatever is drawn is drawn between two answers.
        self._live = Live(
            console=Console(
                file=cast(IO[str], Stderr()),
                force_terminal=True,
                highlight=False,
            ),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._call: Optional[Call] = None
        self._clock: Optional[asyncio.Task[None]] = None

    def start(self, call: Call) -> None:
        self._call = call
        self._live.start()
        self._draw(call.outcome)
        self._clock = background.start(self._run_clock(call))

    async def end(self) -> None:
        assert self._call
        assert self._clock
        await background.end(self._clock)
        self._draw(self._call.outcome, is_last=True)
        self._live.stop()

    async def _run_clock(self, call: Call) -> None:
        # Not at each response: with many nodes nothing else would be done.
        while True:
            await asyncio.sleep(_EVERY)
            # Nor faster than a terminal shows it.
            if stderr().is_idle:
                self._draw(call.outcome)

    def _draw(self, outcome: Outcome, is_last: bool = False) -> None:
        nodes = outcome.nodes
        width, height = self._live.console.size
        is_small = width < _NARROW or (height <= _FRAME and not is_last)
        room = max(1, height - (1 if is_small else _FRAME))
        if len(nodes) > room:
            if is_last:
                # It may scroll, but only for what is not well.
                room = max(room, len(nodes) - len(outcome.done))
            nodes = _first(outcome, min(room, _MOST))
        if is_small:
            self._live.update(_lines(outcome, nodes, is_last), refresh=True)
            return
        table = Table(
            title=Text(
                f"{text.plain(outcome.request.task)} on "
                f"{text.plain(outcome.request.dst)}, "
                f"{text.seconds(outcome.seconds)}",
                no_wrap=not is_last,
                overflow="ellipsis",
            ),
            title_justify="left",
            caption=_rest(outcome.nodes, nodes),
            caption_justify="left",
        )
        lines = [[Text(heading) for heading in _HEADINGS]]
        lines += [_row(node, outcome.seconds) for node in nodes]
        if not is_last:
            # Said of the columns, these would not give way to each other.
            for cell in itertools.chain(*lines):
                cell.no_wrap, cell.overflow = True, "ellipsis"
        for heading in lines[0]:
            table.add_column(heading, overflow="fold")
        for line in lines[1:]:
            table.add_row(*line)
        self._live.update(table, refresh=True)


def _lines(outcome: Outcome, nodes: Nodes, is_last: bool) -> Group:
    """What is left of the table where there is no room for one."""
    lines = []
    for node in nodes:
        line = Text(f"{text.plain(node.node)} {_word(node.status)}")
        if not is_last:
            line.no_wrap, line.overflow = True, "ellipsis"
        elif node.reason:
            line.append(f": {text.plain(node.reason[:_REASON])}")
        lines.append(line)
    rest = _rest(outcome.nodes, nodes)
    return Group(*lines, *([rest] if rest else []))


def _first(outcome: Outcome, count: int) -> Nodes:
    """So many nodes: those that need attention before those that are well."""
    by_need = (outcome.having(status) for status in _STYLES)
    return tuple(itertools.islice(itertools.chain(*by_need), count))


def _rest(nodes: Nodes, shown: Nodes) -> Optional[Text]:
    """How many nodes are not shown, and how they are."""
    if len(nodes) == len(shown):
        return None
    rest = Counter(node.status for node in nodes)
    rest.subtract(node.status for node in shown)
    counts = [f"{rest[s]} {_word(s)}" for s in _STYLES if rest[s]]
    return Text(
        f"and {len(nodes) - len(shown)} more: {', '.join(counts)}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _word(status: Status) -> str:
    return _WORDS.get(status, status.value)


def _row(node: NodeOutcome, now: float) -> list[Text]:
    begun, ended = node.accepted, node.ended
    end = now if ended is None else ended
    return [
        Text(text.plain(node.node)),
        Text(_word(node.status), style=_STYLES[node.status]),
        Text("" if begun is None else text.seconds(begun)),
        Text("" if begun is None else text.seconds(end - begun)),
        Text(text.plain(node.reason[:_REASON])),
    ]
