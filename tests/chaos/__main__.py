"""Runs the storm: ``python -m tests.chaos --seed 7 --minutes 2``."""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Counter, Dict, Iterator, List, Set

from tests.chaos import aftermath
from tests.chaos.faults import KINDS, Storm, plan
from tests.chaos.load import Clients
from tests.chaos.observer import Heard
from tests.chaos.tasks import NODES
from tests.chaos.verdict import (
    EXCUSED,
    FAILURES,
    Finding,
    Verdict,
    first_of_each,
)
from tests.chaos.world import FEEDBACK, World, commands_of
from tests.parts import ROOT, wait_for

_CLIENTS = 6
_AGENT_KINDS = {"stop-agent": "stop_agents", "kill-agent": "kill_agents"}
_QUIET = 10.0  # seconds without a message, after which none will come
_SETTLE = 90.0  # seconds for all answers to arrive after all is healed
_ANSWER = 90.0  # seconds until an agent is back, at most
_REPEAT = 5.0  # seconds for an agent to answer
_RECENT = 2000  # messages
_SHOWN = 3  # findings of each kind that are printed
_WRITTEN = 100  # findings of each kind that are kept in a file
_BEFORE = 2.0  # seconds before a request, whose faults are listed


class Run:
    """One run, from the start of all parts to its report."""

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
        self._rss: List[str] = []

    def run(self) -> bool:
        """Whether all was as it should be."""
        world, options = self._world, self._options
        world.start()
        self._ask_each("true", "blob", "sleep", "blob")
        before = {a.node: aftermath.footprint(a) for a in world.agents}
        self._clients.start()
        self._storm.run(
            plan(options.seed, options.minutes, self._kinds()),
            options.minutes * 60,
        )
        self._clients.stop()
        self._storm.heal()
        verdict = self._settle()
        self._ask_each("true")
        for agent in world.agents:
            if agent.node not in world.restarted:
                self._trouble += aftermath.growth(agent, before[agent.node])
        self._trouble += aftermath.commands_left(self._src)
        for agent in world.agents:
            self._trouble += aftermath.zombies(agent)
            after = aftermath.footprint(agent)
            self._rss.append(
                f"{agent.node}: {before[agent.node].rss} KiB, then {after.rss}"
            )
        self._trouble += aftermath.keys_for_ever(world)
        for agent in world.agents:
            agent.note_exit(agent.stop())
            agent.journal.read()
            self._trouble += aftermath.log_trouble(agent)
            self._trouble += agent.trouble
        verdict = self._judge()
        dropped = [
            o.sessions - 1 - world.restarts
            for o in world.observers
            if o.sessions - 1 > world.restarts
        ]
        if dropped:
            self._trouble.append(f"Redis dropped subscribers: {dropped}")
        for observer in world.observers:
            self._trouble += [
                f"no response: {text}" for text in observer.strange[:3]
            ]
        self._report(verdict)
        return not verdict.failures and not self._trouble

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
        """Every agent answers a request for each task."""
        for task in tasks:
            silent = set(NODES)
            deadline = time.monotonic() + _ANSWER
            while silent and time.monotonic() < deadline:
                silent -= self._answering(task, silent)
            if silent:
                self._trouble.append(f"no answer to {task} of {silent}")

    def _answering(self, task: str, nodes: Set[str]) -> Set[str]:
        """Ask these nodes; those that answer."""
        ref = self._clients.ask(task, sorted(nodes))
        with contextlib.suppress(AssertionError):
            wait_for(lambda: nodes <= self._ended(ref), _REPEAT)
        return self._ended(ref)

    def _ended(self, ref: str) -> Set[str]:
        """The nodes of which a request's ending was heard."""
        return {
            heard.src
            for observer in self._world.observers
            for heard in observer.heard[-_RECENT:]
            if heard.ref == ref
            and heard.status != "accepted"
            and heard.chunk == heard.chunks
        }

    def _settle(self) -> Verdict:
        """Wait until all has been heard, or nothing comes any longer."""
        begin = time.monotonic()
        size, since = -1, begin
        while True:
            verdict = self._judge()
            now = time.monotonic()
            heard = sum(len(o.heard) for o in self._world.observers)
            if heard != size:
                size, since = heard, now
            is_open = any(a.journal.open for a in self._world.agents)
            if not verdict.counts["lost in silence"] and (
                not is_open or self._options.kill_agents
            ):
                return verdict
            if now - since > _QUIET and now - begin > _SETTLE / 2:
                return verdict
            if now - begin > _SETTLE:
                return verdict
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

    def _report(self, verdict: Verdict) -> None:
        journals = [agent.journal for agent in self._world.agents]
        counts = verdict.counts
        rows = {
            "seed": self._options.seed,
            "minutes": f"{self._options.minutes:g}",
            "requests": len(self._clients.sent),
            "accepted": sum(journal.accepted for journal in journals),
            "answers expected": counts["expected"],
            "answers delivered": counts["delivered"],
            "server restarts": self._world.restarts,
        }
        if self._options.kill_agents:
            rows["commands left by killed agents"] = self._world.left
        rows.update({what: counts[what] for what in FAILURES})
        rows.update({what: counts[what] for what in EXCUSED if counts[what]})
        for name, value in rows.items():
            print(f"{name:52} {value:>10}")
        print(f"faults: {_figures(self._storm.counts)}")
        if self._storm.missed:
            print(f"not possible then: {_figures(self._storm.missed)}")
        for line in self._rss:
            print(line)
        for line in self._trouble:
            print(f"TROUBLE: {line}")
        for finding in first_of_each(verdict.findings, _SHOWN):
            print("", *self._explain(verdict, finding), sep="\n")
        with (self._folder / "findings").open("w") as file:
            for finding in first_of_each(verdict.findings, _WRITTEN):
                print(*self._explain(verdict, finding), sep="\n", file=file)

    def _explain(self, verdict: Verdict, finding: Finding) -> Iterator[str]:
        """Lines that tell all about a finding."""
        request = self._clients.sent.get(finding.uuid)
        yield (
            f"{finding.what}: {finding.node}, request {finding.uuid}, "
            f"{finding.detail or 'see below'} ({request})"
        )
        (agent,) = [a for a in self._world.agents if a.node == finding.node]
        for line in agent.journal.lines_about(finding.uuid):
            yield f"    {line}"
        for heard in verdict.heard_of(finding):
            yield (
                f"    heard at {_clock(heard.at)}: {heard.status} "
                f"{heard.chunk}/{heard.chunks} of response {heard.response}, "
                f"{heard.size} characters {heard.reason}"
            )
        records = agent.journal.records.get(finding.uuid)
        if records:
            begin, end = records[0].at - _BEFORE, records[-1].at + 1
            for window in verdict.windows_of(begin, end):
                if window.node in (None, finding.node):
                    yield (
                        f"    {window.kind} from {_clock(window.begin)} to "
                        f"{_clock(window.end)}"
                    )


def _figures(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _clock(at: float) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    return f"{clock},{int(at % 1 * 1000):03}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__
    )
    parser.add_argument("--seed", type=int, help="of faults and requests")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument(
        "--rate", type=float, default=150, help="requests a second"
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="tree of the daemon"
    )
    parser.add_argument(
        "--stock-limits",
        action="store_true",
        help="clients hear for themselves, with Redis's own limits",
    )
    parser.add_argument(
        "--stop-agents", action="store_true", help="with SIGTERM, too"
    )
    parser.add_argument(
        "--kill-agents", action="store_true", help="with SIGKILL, too"
    )
    for name in ("--only", "--without"):
        parser.add_argument(
            name,
            default=[],
            type=lambda text: text.split(","),
            help=f"kinds of faults: {', '.join(KINDS)}",
        )
    parser.add_argument(
        "--keep", action="store_true", help="the logs of a good run, too"
    )
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A short path: a unix socket's may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    is_good = False
    try:
        with contextlib.closing(Run(options, folder)) as run:
            is_good = run.run()
    finally:
        if is_good and not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"logs are in {folder}")
    print("all is well" if is_good else "FAILED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
