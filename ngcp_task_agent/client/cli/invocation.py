"""Runs a task on all nodes at once: one request, and its answers."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import stat
import sys
from functools import partial
from typing import Callable, List, Optional, Tuple

from ngcp_task_agent import display
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.cli import labels, text
from ngcp_task_agent.client.cli.action import Action, is_terminal
from ngcp_task_agent.client.cli.exit_status import (
    BY_SIGNAL,
    EX_UNAVAILABLE,
    EXIT_STATUSES,
)
from ngcp_task_agent.client.cli.output import as_json
from ngcp_task_agent.client.cli.report import Say, View
from ngcp_task_agent.client.cli.writer import WriteError
from ngcp_task_agent.client.client import Client
from ngcp_task_agent.client.discovery import Address
from ngcp_task_agent.client.errors import ConnectionLost
from ngcp_task_agent.client.progress import LiveLine
from ngcp_task_agent.logs.lines import printable

_MOST_WAITING = 4 << 20  # characters
_PAUSE = 0.05  # seconds
_LARGEST_BURST = 65536  # characters


class Invocation(Action):
    """One request."""

    def __init__(
        self, options: argparse.Namespace, address: Address, say: Say
    ) -> None:
        super().__init__(options, address, say)
        self._form = labels.choose(options, is_terminal(sys.stdout))
        self._view = choose_view(options, say, self.is_shared)
        # On one terminal, the data follows the live view.
        self._is_below = self._view.is_live and self.is_shared
        self._call: Optional[Call] = None

    async def act(self, client: Client) -> int:
        options = self.options
        call = self._call = client.send(
            options.task,
            options.dst,
            options.data,
            patience=options.patience,
            live=options.follow,
        )
        if options.verbose:
            self.say(f"request {call.request.uuid}")
        return await self._follow(call)

    def say_interrupted(self) -> None:
        if not self._call:
            super().say_interrupted()

    async def _follow(self, call: Call) -> int:
        """Report the responses and the outcome; return the exit status."""
        is_followed = self.options.follow
        held: List[str] = []
        write = held.append if self._is_below else self.write
        lines = _Burst(self._view.show if self._is_below else self.write)
        lost = ""
        loop = asyncio.get_running_loop()
        self.writer.on_error = partial(loop.call_soon_threadsafe, call.stop)
        try:
            async with self._view.follow(call):
                try:
                    async for item in call.follow() if is_followed else call:
                        if isinstance(item, LiveLine):
                            lines.add(self._form.line(item))
                            await self._wait_for_reader()
                        else:
                            lines.show()
                            self._view.response(item)
                            write(self._form.response(item))
                finally:
                    lines.show()
            self.writer.check()
        except ConnectionLost as error:
            lost = str(error)
        except WriteError:
            self._say_running(call)
            raise
        except asyncio.CancelledError:
            if self.signal is None:
                raise
            call.stop()
        status, exit_status = self._conclude(call, lost)
        document = as_json(call.outcome, status, exit_status)
        for shown in (*held, self._form.end(document)):
            self.write(shown)
        return exit_status

    async def _wait_for_reader(self) -> None:
        """Take no more output than is read: it could have no end."""
        while self.writer.backlog + self._view.backlog > _MOST_WAITING:
            await self.drain()
            await asyncio.sleep(_PAUSE)

    def _conclude(self, call: Call, lost: str) -> Tuple[str, int]:
        """Report the outcome; return it as a word and an exit status."""
        if self.signal is not None:
            self._say_running(call, "interrupted; ", "no node that answered")
            return "interrupted", BY_SIGNAL + self.signal
        if lost:
            self.say(printable(lost))
            self._say_running(call)
            return "lost", EX_UNAVAILABLE
        if call.live_lost:
            self.say(f"no more live output: {printable(call.live_lost)}")
        for problem in text.of_problems(call.outcome):
            self.say(problem)
        if self.options.verbose or is_terminal(sys.stderr):
            for problem in text.of_unused(call.outcome):
                self.say(problem)
        verdict = call.outcome.verdict
        return verdict.value, EXIT_STATUSES[verdict]

    def _say_running(self, call: Call, why: str = "", none: str = "") -> None:
        running = text.names(call.outcome.unfinished) or none
        if running:
            self.say(f"{why}still running or queued: {running}")
        if call.outcome.unfinished:
            self.say(f"to end it: {self.cancel_line(call.request.uuid)}")


class _Burst:
    """Joins lines that come at once: to write each would be slow.

    :param show: takes the text, at the latest when the event loop goes on
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._texts: List[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        if not self._texts:
            asyncio.get_running_loop().call_soon(self.show)
        self._texts.append(text)
        self._size += len(text)
        if self._size > _LARGEST_BURST:
            self.show()

    def show(self) -> None:
        texts, self._texts, self._size = self._texts, [], 0
        # The writer keeps its error, and check() reports it.
        with contextlib.suppress(WriteError):
            self._show("".join(texts))


def choose_view(
    options: argparse.Namespace, say: Say, is_shared: bool
) -> View:
    """Return the live view if it disturbs nothing, else a line each."""
    if (
        options.quiet
        or display.is_dumb()
        or not is_terminal(sys.stderr)
        # The reader of standard output may write to the same terminal, and one
        # terminal can have two names.
        or (not is_shared and (is_terminal(sys.stdout) or _is_piped()))
    ):
        return View(say, options.verbose)
    # Imported here: loading it takes longer than running a task.
    from ngcp_task_agent.client.cli.live import LiveView

    return LiveView(say, options.verbose)


def _is_piped() -> bool:
    mode = os.fstat(sys.stdout.fileno()).st_mode if sys.stdout else 0
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
