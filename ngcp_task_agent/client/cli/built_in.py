"""Requests a built-in task: --nodes, --tasks, --jobs or --cancel.

See BUILT-IN TASKS in ngcp-task-agent-protocol(7).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections import defaultdict
from typing import Any, Dict, List, Sequence, Tuple

from ngcp_task_agent import display
from ngcp_task_agent.client.cli import listings, seen, text
from ngcp_task_agent.client.cli.action import Action, is_terminal
from ngcp_task_agent.client.cli.exit_status import EX_NONE, EXIT_STATUSES
from ngcp_task_agent.client.cli.report import Say
from ngcp_task_agent.client.client import Client
from ngcp_task_agent.client.discovery import Address
from ngcp_task_agent.client.outcome import (
    NodeOutcome,
    RequestOutcome,
    Verdict,
)
from ngcp_task_agent.logs.lines import printable

_SAVING = 1.0  # seconds
_ALL_NODES = "*"


class BuiltIn(Action):
    """One request for a built-in task, and a list of what was answered."""

    def __init__(
        self, options: argparse.Namespace, address: Address, say: Say
    ) -> None:
        super().__init__(options, address, say)
        self._kind = next(k for k in listings.LISTINGS if getattr(options, k))
        self._listing = listings.LISTINGS[self._kind]

    def request(self) -> Tuple[str, Any]:
        uuid = self.options.cancel
        return self._listing.task, {"ref": uuid} if uuid else None

    async def act(self, client: Client) -> int:
        options = self.options
        task, data = self.request()
        call = client.send(task, options.dst, data, patience=options.patience)
        if options.verbose:
            self.say(f"request {call.request.uuid}")
        async for response in call:
            if options.verbose:
                self.say(text.of_response(response))
        outcome = call.outcome
        found = self._listing.found(outcome)
        exit_status = self._conclude(outcome, found)
        self.write(self._shown(outcome, found, exit_status))
        is_seen = not options.quiet and is_terminal(sys.stderr)
        if self._kind == "jobs" and outcome.nodes and not found and is_seen:
            self.say("no request runs or waits")
        await self._save(found)
        return exit_status

    def say_interrupted(self) -> None:
        self.say("interrupted")

    def _conclude(self, outcome: RequestOutcome, found: Sequence[Any]) -> int:
        """Report what is missing; return the exit status."""
        for problem in text.of_problems(outcome):
            self.say(problem)
        verdict = outcome.verdict
        if self._kind != "nodes":
            for line in _refusals(outcome):
                self.say(line)
        if self._kind == "cancel" and outcome.nodes and not found:
            self.say(
                "none of the nodes that answered has a request "
                f"'{self.options.cancel}' that runs or waits"
            )
            return EX_NONE
        # A node that rejects a ping is there.  A job that one node has
        # cancelled is cancelled, whatever the others say.
        if verdict is Verdict.REJECTED and self._kind in ("nodes", "cancel"):
            verdict = Verdict.DONE
        return EXIT_STATUSES[verdict]

    def _shown(
        self, outcome: RequestOutcome, found: Sequence[Any], exit_status: int
    ) -> str:
        form, listing = self.options.output, self._listing
        if form == "json":
            document = {
                "dst": outcome.request.dst,
                "exit_status": exit_status,
                "missing": list(outcome.missing_nodes),
                "refused": [
                    {"node": node.node, "reason": node.reason}
                    for node in _refusing(outcome)
                ],
                listing.name: list(map(listing.as_json, found)),
            }
            return display.json_line(document, indent=2)
        if form == "jsonl":
            return "".join(
                display.json_line(listing.as_json(one)) for one in found
            )
        if form == "text" and self._kind == "nodes" and self.options.quiet:
            return listings.names(found)
        return listing.shown(found) if found else ""

    async def _save(self, found: Sequence[Any]) -> None:
        """Keep names for completion, unless others would be lost for it."""
        words = self._listing.seen(found)
        if words and (self._kind == "jobs" or self.options.dst == _ALL_NODES):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    asyncio.to_thread(seen.save, words), _SAVING
                )


def _refusing(outcome: RequestOutcome) -> Tuple[NodeOutcome, ...]:
    return (*outcome.rejected, *outcome.failed)


def _refusals(outcome: RequestOutcome) -> List[str]:
    """Return a line for each reason why nodes rejected or failed."""
    by_reason: Dict[str, List[str]] = defaultdict(list)
    for node in _refusing(outcome):
        by_reason[f"{node.status.value}: {node.reason}"].append(node.node)
    return [
        f"{text.listed(nodes)}: {printable(reason)}"
        for reason, nodes in by_reason.items()
    ]
