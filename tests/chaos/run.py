"""A run: starts all parts, then the storm, the aftermath and the verdict."""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Counter, Dict, Iterator, List, Mapping, Set

from tests.chaos import aftermath
from tests.chaos.agent import commands_of
from tests.chaos.faults import KINDS
from tests.chaos.load import Clients
from tests.chaos.observer import Heard
from tests.chaos.report import Report
from tests.chaos.server import FEEDBACK
from tests.chaos.storm import Storm, plan
from tests.chaos.tasks import NODES
from tests.chaos.verdict import SILENT, Verdict
from tests.chaos.world import World
from tests.parts import wait_for

_CLIENTS = 6
_AGENT_KINDS = {"stop-agent": "stop_agents", "kill-agent": "kill_agents"}
_QUIET = 10.0  # seconds without a message, after which none is expected
_SETTLE = 90.0  # seconds for all answers to arrive once all is healed
_ANSWER = 90.0  # maximum seconds until an agent is back
_REPEAT = 5.0  # seconds for an agent to answer
_RECENT = 2000  # messages


class Run:
    """One run, from starting its parts to its report."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._src = f"chaos-{uuid.uuid4().hex[:12]}"
        self._world = World(folder, options.root, options.stock_limits)
        channels = [
            f"{FEEDBACK}{self._src}-{number}" for number in range(_CLIENTS)
        ]
        if options.stock_limits:
            for channel in channels:
                self._world.observe("SUBSCRIBE", channel)
        else:
            self._world.observe("PSUBSCRIBE", f"{FEEDBACK}*")
        self._clients = Clients(
            self._world.server,
            options.seed,
            self._src,
            channels,
            options.rate,
        )
        self._faults = (folder / "faults.log").open("w")
        self._storm = Storm(self._world, self._faults)
        self._trouble: List[str] = []
        self._sizes: List[str] = []

    def run(self) -> bool:
        """Return whether everything was as expected."""
        world, options = self._world, self._options
        world.start()
        self._ask_each("true", "blob", "sleep", "blob")
        before = {a.node: aftermath.footprint(a) for a in world.agents}
        self._clients.start()
        self._storm.run(
            plan(options.seed, options.minutes, self._kinds()),
            options.minutes * 60,
        )
        # First: a client waits for a stalled server.
        self._storm.heal()
        self._clients.stop()
        self._settle()
        self._ask_each("true")
        self._examine(before)
        self._stop_agents()
        verdict = self._judge()
        report = Report(
            verdict,
            self._storm,
            [agent.journal for agent in world.agents],
            self._clients.sent,
        )
        lines = [
            *report.table(
                seed=options.seed,
                minutes=f"{options.minutes:g}",
                restarts_of_the_server=world.restarts,
                commands_left_by_killed_agents=world.left,
            ),
            *self._sizes,
            *(f"TROUBLE: {line}" for line in self._trouble),
            *report.findings(self._folder),
        ]
        print(*lines, sep="\n")
        return not verdict.findings and not self._trouble

    def close(self) -> None:
        self._clients.stop()
        self._world.stop()
        self._faults.close()
        for pid, _ in commands_of(self._src):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _kinds(self) -> List[str]:
        options = self._options
        kinds = [
            kind
            for kind in KINDS
            if kind not in _AGENT_KINDS or getattr(options, _AGENT_KINDS[kind])
        ]
        if options.only:
            kinds = [kind for kind in kinds if kind in options.only]
        return [kind for kind in kinds if kind not in options.without]

    def _heard(self) -> Iterator[Heard]:
        return itertools.chain.from_iterable(
            list(observer.heard) for observer in self._world.observers
        )

    def _ask_each(self, *tasks: str) -> None:
        """Check that every agent answers a request for each task."""
        for task in tasks:
            silent = set(NODES)
            deadline = time.monotonic() + _ANSWER
            while silent and time.monotonic() < deadline:
                silent -= self._answering(task, silent)
            if silent:
                self._trouble.append(f"no answer to {task} of {silent}")

    def _answering(self, task: str, nodes: Set[str]) -> Set[str]:
        """Ask these nodes; return those that answer."""
        ref = self._clients.ask(task, sorted(nodes))
        with contextlib.suppress(AssertionError):
            wait_for(lambda: nodes <= self._ended(ref), _REPEAT)
        return self._ended(ref)

    def _ended(self, ref: str) -> Set[str]:
        """Return the nodes whose ending of a request was received."""
        return {
            heard.src
            for observer in self._world.observers
            for heard in observer.heard[-_RECENT:]
            if heard.ref == ref
            and heard.status != "accepted"
            and heard.chunk == heard.chunks
        }

    def _examine(self, before: Mapping[str, aftermath.Footprint]) -> None:
        """Look for what is left over, or has grown."""
        trouble = self._trouble
        agents = [agent for agent in self._world.agents if agent.is_alive]
        for agent in agents:
            if agent.node not in self._world.restarted:
                trouble += aftermath.growth(agent, before[agent.node])
        trouble += aftermath.commands_left(self._src)
        for agent in agents:
            trouble += aftermath.zombies(agent)
            after = aftermath.footprint(agent)
            self._sizes.append(
                f"{agent.node}: {before[agent.node].rss} KiB, then {after.rss}"
            )
        trouble += aftermath.keys_for_ever(self._world)
        trouble += aftermath.observer_trouble(self._world)

    def _stop_agents(self) -> None:
        for agent in self._world.agents:
            agent.note_exit(agent.stop())
            agent.journal.read()
            self._trouble += aftermath.log_trouble(agent)
            self._trouble += agent.trouble

    def _settle(self) -> None:
        """Wait until everything has arrived, or nothing more does."""
        begin = time.monotonic()
        size, since = -1, begin
        while True:
            verdict = self._judge()
            now = time.monotonic()
            heard = sum(len(o.heard) for o in self._world.observers)
            if heard != size:
                size, since = heard, now
            is_open = any(a.journal.open for a in self._world.agents)
            if not verdict.counts[SILENT] and (
                not is_open or self._options.kill_agents
            ):
                return
            if now - since > _QUIET and now - begin > _SETTLE / 2:
                return
            if now - begin > _SETTLE:
                return
            time.sleep(max(0.5, time.monotonic() - now))

    def _judge(self) -> Verdict:
        runs: Dict[str, Counter[str]] = {}
        for agent in self._world.agents:
            agent.journal.read()
            runs[agent.node] = collections.Counter(
                agent.runs.read_text().split()
            )
        return Verdict(
            self._clients.sent,
            [agent.journal for agent in self._world.agents],
            self._heard(),
            runs,
            self._storm.windows,
            self._options.kill_agents,
        )
