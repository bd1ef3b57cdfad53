"""The live view: a table of the nodes on the terminal while they work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import IO, Any, AsyncIterator, List, Optional, Tuple, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from ngcp_task_agent import background
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.report import Say, View, stderr
from ngcp_task_agent.client.outcome import NodeOutcome, RequestOutcome
from ngcp_task_agent.client.responses import ReceivedResponse, Status
from ngcp_task_agent.display import for_terminal, seconds
from ngcp_task_agent.logs.lines import printable

_INTERVAL = 0.25  # seconds
_FRAME = 6  # lines of the view that show no node
_NARROW = 60  # columns: less is too small for a table
_WIDE = 80  # columns: with less, the table leaves out _LEAST_NEEDED
_MOST = 500  # nodes: more take seconds to draw
_REASON = 500  # characters
_HEADINGS = ("Node", "State", "Accepted after", "Time", "Reason")
_LEAST_NEEDED = 2
_STYLES = {  # those that need attention come first
    Status.ERROR: "red",
    Status.REJECTED: "magenta",
    Status.ACCEPTED: "yellow",
    Status.DONE: "green",
}

Nodes = Tuple[NodeOutcome, ...]


class LiveView(View):
    """Shows how long each node has been running, or how it ended.

    Counts the nodes for which the terminal has no lines.  The table stays when
    all have ended.
    """

    is_live = True

    def __init__(self, say: Say, verbose: bool) -> None:
        super().__init__(say, verbose)
        self._above: List[str] = []

    @contextlib.asynccontextmanager
    async def follow(self, call: Call) -> AsyncIterator[None]:
        live = Live(
            console=Console(
                file=cast(IO[str], stderr()),
                force_terminal=True,
                highlight=False,
            ),
            # No thread: draw between two responses.
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        clock = background.start(self._keep_drawing(live, call))
        try:
            yield
        finally:
            await background.end(clock)
            _draw(live, call.outcome, self._take(), is_last=True)
            live.stop()

    def response(self, response: ReceivedResponse) -> None:
        """Do nothing: drawing each response is too slow with many nodes."""

    def show(self, output: str) -> None:
        """Show lines above the table, when it is drawn next."""
        self._above.append(for_terminal(output))
        self.backlog += len(output)

    def _take(self) -> str:
        """Return the lines to show, and begin anew."""
        above = "".join(self._above)
        self._above, self.backlog = [], 0
        return above

    async def _keep_drawing(self, live: Live, call: Call) -> None:
        while True:
            # Draw no faster than the terminal shows it.
            if stderr().is_idle:
                _draw(live, call.outcome, self._take())
            await asyncio.sleep(_INTERVAL)


def _draw(
    live: Live, outcome: RequestOutcome, above: str, is_last: bool = False
) -> None:
    """Draw the table, below the lines that came since the last time."""
    live.update(_view(live, outcome, is_last), refresh=not above)
    if above:
        # This draws the table as well.
        shown = Segments([Segment(above)])
        live.console.print(shown, end="", soft_wrap=True)


def _view(
    live: Live, outcome: RequestOutcome, is_last: bool
) -> RenderableType:
    nodes = outcome.nodes
    width, height = live.console.size
    is_small = width < _NARROW or (height <= _FRAME and not is_last)
    room = max(1, height - (1 if is_small else _FRAME))
    if len(nodes) > room:
        if is_last:
            # The last table may scroll, but only to show what went wrong.
            room = max(room, len(nodes) - len(outcome.done))
        by_need = itertools.chain(*map(outcome.having, _STYLES))
        nodes = tuple(itertools.islice(by_need, min(room, _MOST)))
    rest = _rest(outcome.nodes, nodes)
    if outcome.missing_nodes and not is_last:
        silent = f"no answer yet: {text.listed(outcome.missing_nodes)}"
        rest = _cut(f"{rest}; {silent}" if rest else silent)
    if is_small:
        lines = [_line(node, is_last) for node in nodes]
        return Group(*lines, *([rest] if rest else []))
    table = Table(
        title=_cut(
            f"{printable(outcome.request.task)} on "
            f"{printable(outcome.request.dst)}, "
            f"{seconds(outcome.seconds)}",
            not is_last,
        ),
        title_justify="left",
        caption=rest,
        caption_justify="left",
    )
    # Cut each text, not the columns, which would not make room for each other.
    rows = [list(_HEADINGS)]
    rows += [_cells(node, outcome.seconds) for node in nodes]
    if width < _WIDE:
        for cells in rows:
            del cells[_LEAST_NEEDED]
    for heading in rows.pop(0):
        table.add_column(_cut(heading, not is_last), overflow="fold")
    for node, cells in zip(nodes, rows):
        row = [_cut(cell, not is_last) for cell in cells]
        row[1].stylize(_STYLES[node.status])
        table.add_row(*row)
    return table


def _cut(content: str, is_cut: bool = True) -> Text:
    """Make a text, on one line if ``is_cut``."""
    overflow: Any = "ellipsis" if is_cut else None
    return Text(content, no_wrap=is_cut, overflow=overflow)


def _line(node: NodeOutcome, is_last: bool) -> Text:
    """Make a row for a terminal too small for a table."""
    line = f"{printable(node.node)} {_word(node.status)}"
    if node.reason:
        line += f": {printable(node.reason[:_REASON])}"
    return _cut(line, not is_last)


def _cells(node: NodeOutcome, now: float) -> List[str]:
    begin, end = node.accepted, now if node.ended is None else node.ended
    times = ["", ""]
    if begin is not None:
        times = [seconds(begin), seconds(end - begin)]
    reason = printable(node.reason[:_REASON])
    return [printable(node.node), _word(node.status), *times, reason]


def _rest(nodes: Nodes, shown: Nodes) -> Optional[Text]:
    """Count the nodes that are not shown, by state."""
    if len(nodes) == len(shown):
        return None
    rest = Counter(node.status for node in nodes)
    rest.subtract(node.status for node in shown)
    counts = [f"{rest[s]} {_word(s)}" for s in _STYLES if rest[s]]
    return _cut(f"and {len(nodes) - len(shown)} more: {', '.join(counts)}")


def _word(status: Status) -> str:
    return "running" if status is Status.ACCEPTED else status.value
