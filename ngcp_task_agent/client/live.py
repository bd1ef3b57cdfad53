"""The live view: a table of the nodes on the terminal, while they work."""

from __future__ import annotations

import asyncio
from typing import Optional

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ngcp_task_agent import background
from ngcp_task_agent.client import text
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.outcome import NodeOutcome
from ngcp_task_agent.client.report import View
from ngcp_task_agent.client.responses import Response, Status

_EVERY = 0.25  # seconds
_REASON = 500  # characters
_STYLES = {
    Status.ACCEPTED: "yellow",
    Status.REJECTED: "magenta",
    Status.DONE: "green",
    Status.ERROR: "red",
}
_WORDS = {Status.ACCEPTED: "running"}


class LiveView(View):
    """Per node: who runs since when, who ended how; stays at the end."""

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        # No thread: whatever is drawn is drawn between two answers.
        self._live = Live(
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._call: Optional[Call] = None
        self._clock: Optional[asyncio.Task[None]] = None

    def start(self, call: Call) -> None:
        self._call = call
        self._live.start()
        self._draw()
        self._clock = background.start(self._run_clock())

    def response(self, response: Response) -> None:
        self._draw()

    async def end(self) -> None:
        if self._clock:
            await background.end(self._clock)
        self._draw()
        self._live.stop()

    async def _run_clock(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            self._draw()

    def _draw(self) -> None:
        assert self._call
        outcome = self._call.outcome
        table = Table(
            title=Text(
                f"{text.plain(outcome.request.task)} on "
                f"{text.plain(outcome.request.dst)}, "
                f"{text.seconds(outcome.seconds)}"
            ),
            title_justify="left",
        )
        for heading in ("Node", "State", "Accepted after", "Time", "Reason"):
            table.add_column(heading, overflow="fold")
        for node in outcome.nodes:
            table.add_row(*_row(node, outcome.seconds))
        self._live.update(table, refresh=True)


def _row(node: NodeOutcome, now: float) -> list[Text]:
    begun, ended = node.accepted, node.ended
    end = now if ended is None else ended
    status = _WORDS.get(node.status, node.status.value)
    return [
        Text(text.plain(node.node)),
        Text(status, style=_STYLES[node.status]),
        Text("" if begun is None else text.seconds(begun)),
        Text("" if begun is None else text.seconds(end - begun)),
        Text(text.plain(node.reason[:_REASON])),
    ]
