"""Runs a task on a few nodes after the other, and stops at a failure."""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from typing import Any, Dict, List, Tuple

from ngcp_task_agent.client.batches import Batch, Batches
from ngcp_task_agent.client.cli import labels, text
from ngcp_task_agent.client.cli.action import Action, is_terminal
from ngcp_task_agent.client.cli.exit_status import (
    BY_SIGNAL,
    EX_UNAVAILABLE,
    EXIT_STATUSES,
)
from ngcp_task_agent.client.cli.output import fields
from ngcp_task_agent.client.cli.report import Say, View
from ngcp_task_agent.client.cli.writer import WriteError
from ngcp_task_agent.client.client import Client
from ngcp_task_agent.client.discovery import Address
from ngcp_task_agent.client.errors import RedisUnavailable
from ngcp_task_agent.client.outcome import Verdict
from ngcp_task_agent.display import seconds
from ngcp_task_agent.logs.lines import printable

_MOST_BEGUN = 20  # names of a batch in a line
_MOST_LEFT = 1000  # names that are not reached: what is left to do
_NEVER = 10**9  # failures that stop a run


class Rolling(Action):
    """--batch, --max-failures, --pause and --limit."""

    def __init__(
        self, options: argparse.Namespace, address: Address, say: Say
    ) -> None:
        super().__init__(options, address, say)
        self._form = labels.choose(options, is_terminal(sys.stdout))
        # No live view: a table for each batch would be too much.
        self._view = View(say, options.verbose)
        # Without --batch, there is one request, and nothing to stop.
        self._allowed = _NEVER
        if options.batch is not None:
            self._allowed = options.max_failures or 0
        self._begun: List[Batch] = []
        self._is_under_way = False  # the last of these

    async def act(self, client: Client) -> int:
        options = self.options
        batches = client.batches(
            options.task,
            options.dst,
            options.data,
            size=options.batch or "100%",
            max_failures=self._allowed,
            pause=options.pause or 0.0,
            limit=options.limit,
            patience=options.patience,
        )
        now = asyncio.get_running_loop().time
        begin, lost = now(), ""
        try:
            await self._run(batches)
        except RedisUnavailable as error:
            if not self._begun:
                raise
            lost = str(error)
        except WriteError:
            self._say_rest(batches)
            raise
        except asyncio.CancelledError:
            if self.signal is None:
                raise
        status, exit_status = self._conclude(batches, lost)
        document = self._document(batches, status, exit_status, now() - begin)
        self.write(self._form.end(document))
        return exit_status

    async def _run(self, batches: Batches) -> None:
        loop = asyncio.get_running_loop()
        batch = await batches.begin()
        if isinstance(self._form, labels.Headed) and len(batches.names) > 1:
            # What a batch writes must not be held until the next one.
            self._form = labels.Headed(is_alone=False)
        for name in batches.missing:
            self.say(f"{printable(name)}: {text.NO_ANSWER}")
        for name, verdict in batches.failures.items():
            if verdict is Verdict.ERROR:
                self.say(text.not_unique(name))
        while batch:
            self.writer.on_error = partial(
                loop.call_soon_threadsafe, batch.call.stop
            )
            self._begun.append(batch)
            self._is_under_way = True
            self._say_begun(batch, len(batches.not_reached))
            async for response in batch.responses():
                self._view.response(response)
                self.write(self._form.response(response))
            self.writer.check()
            for problem in _problems(batch):
                self.say(problem)
            self._is_under_way = False
            batch = await batches.begin()

    def _say_begun(self, batch: Batch, ahead: int) -> None:
        names = text.listed(batch.names, _MOST_BEGUN)
        if self.options.batch is None:
            self.say(f"chosen at random: {names}")
        else:
            to_go = f"; {ahead} to go" if ahead else ""
            self.say(f"batch {len(self._begun)}: {names}{to_go}")
        if self.options.verbose:
            self.say(f"request {batch.call.request.uuid}")

    def _conclude(self, batches: Batches, lost: str) -> Tuple[str, int]:
        """Report the outcome; return it as a word and an exit status."""
        if self.signal is not None:
            self.say("interrupted")
            self._say_rest(batches)
            return "interrupted", BY_SIGNAL + self.signal
        if lost:
            self.say(printable(lost))
            self._say_rest(batches)
            return "lost", EX_UNAVAILABLE
        verdict = batches.verdict
        if verdict is Verdict.UNANSWERED:
            self.say(
                "no node answered: no agent listens there, or none matches "
                f"'{printable(self.options.dst)}'"
            )
        elif batches.not_reached and len(batches.failures) > self._allowed:
            count = len(batches.failures)
            self.say(f"stopped after {count} failure{'s' * (count != 1)}")
        self._say_rest(batches)
        return verdict.value, EXIT_STATUSES[verdict]

    def _say_rest(self, batches: Batches) -> None:
        """Name the nodes that still run, and those that are not reached."""
        if self._is_under_way:
            batch = self._begun[-1]
            batch.call.stop()
            outcome = batch.outcome
            if outcome.unfinished:
                running = text.names(outcome.unfinished)
                self.say(f"still running or queued: {running}")
                self.say(
                    f"to end it: {self.cancel_line(outcome.request.uuid)}"
                )
        if batches.not_reached:
            names = text.listed(batches.not_reached, _MOST_LEFT)
            self.say(f"not reached: {names}")

    def _document(
        self, batches: Batches, status: str, exit_status: int, took: float
    ) -> Dict[str, Any]:
        """Return the outcome as output.schema.json describes it."""
        outcomes = [batch.outcome for batch in self._begun]
        silent = [name for o in outcomes for name in o.missing_nodes]
        return {
            "task": self.options.task,
            "src": self.address.src,
            "dst": self.options.dst,
            "status": status,
            "exit_status": exit_status,
            "seconds": round(took, 6),
            "missing": [*batches.missing, *silent],
            "not_reached": list(batches.not_reached),
            "batches": [
                {
                    "uuid": outcome.request.uuid,
                    "seconds": round(outcome.seconds, 6),
                    "nodes": list(batch.names),
                }
                for batch, outcome in zip(self._begun, outcomes)
            ],
            "nodes": [fields(n) for o in outcomes for n in o.nodes],
        }


def _problems(batch: Batch) -> List[str]:
    """List what went wrong, apart from what the nodes themselves reported."""
    outcome, mine = batch.outcome, set(batch.names)
    problems = [
        f"{printable(name)}: {text.NO_ANSWER}"
        for name in outcome.missing_nodes
    ]
    if outcome.unfinished:
        problems.append(
            f"accepted but not ended after {seconds(outcome.seconds)} "
            f"(running or queued): {text.names(outcome.unfinished)}"
        )
    for node in outcome.nodes:
        if node.doubled:
            problems.append(text.not_unique(node.node))
        elif node.node not in mine:
            problems.append(
                f"{printable(node.node)}: answered in the turn of another: "
                "one of its names is that of the other"
            )
    return problems
