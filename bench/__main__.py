"""Measure the agent against the bare minimum of its work.

The minimum, floor.py, subscribes, starts processes and publishes, and does
nothing else.  Both do the same in turn, in each round, on the same private
Redis: absolute figures depend on the machine and its load, ratios less.

    make bench
    make bench-growth
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Sequence

import yaml

from bench import chart, growth, load, processes
from bench.processes import Contender
from tests.parts import ROOT, RedisServer

AT_ONCE = (1, 8, 64, 256)
ROUNDS, REQUESTS = 5, 500
IDLE = 10.0  # seconds

_MAKE = ("make", "bench")
_WIDTH = 50  # columns for the names
HEADING = (
    "Ratios: median, least and greatest of the rounds; A/A: the floor against "
    "itself.\n\n"
    f"{'':{_WIDTH}}{'agent':>10}{'floor':>10}"
    f"{'ratio':>8}{'least':>8}{'most':>8}{'A/A':>8}"
)


@dataclass(frozen=True)
class Figure:
    """A figure of the agent, and of what it is compared with.

    :ivar ratio: median of the rounds' ratios; 0 if they are not compared
    :ivar low: the least of them
    :ivar high: the greatest of them
    :ivar control: the median ratio of the minimum to itself; 0 for none
    """

    name: str
    agent: float
    floor: float
    ratio: float
    low: float
    high: float
    control: float = 0.0

    def __str__(self) -> str:
        ratios = (self.ratio, self.low, self.high, self.control)
        shown = (f"{ratio:8.2f}" if ratio else " " * 8 for ratio in ratios)
        line = f"{self.name:{_WIDTH}}{self.agent:10.2f}{self.floor:10.2f}"
        return (line + "".join(shown)).rstrip()


def figure(
    name: str,
    agent: Sequence[float],
    floor: Sequence[float],
    control: Sequence[float] = (),
) -> Figure:
    """Compare rounds.

    :param control: the minimum again, in the same rounds
    """
    ratios = sorted(a / f for a, f in zip(agent, floor))
    controls = [c / f for c, f in zip(control, floor)]
    return Figure(
        name,
        statistics.median(agent),
        statistics.median(floor),
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
        statistics.median(controls) if controls else 0.0,
    )


def in_turn(
    rounds: int, measures: Sequence[Callable[[], load.Figures]]
) -> List[Dict[str, List[float]]]:
    """Measure each in each round; return the figures of each, by name."""
    found: List[Dict[str, List[float]]] = [{} for _ in measures]
    for _ in range(rounds):
        for measure, into in zip(measures, found):
            for name, value in measure().items():
                into.setdefault(name, []).append(value)
    return found


class Bench:
    """One run on a private Redis."""

    def __init__(
        self, folder: Path, rounds: int, requests: int, log: Dict[str, str]
    ) -> None:
        # Compile once, as for an installed package: the first start does it.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        self._folder = folder
        self._rounds = rounds
        self._requests = requests
        self._log = log
        self._server = RedisServer(folder)
        self._server.start()
        self.figures: List[Figure] = []
        self.agent("first").stop()

    def stop(self) -> None:
        self._server.stop()

    def add(self, *figures: Figure) -> None:
        for one in figures:
            print(one, flush=True)
            self.figures.append(one)

    def agent(self, name: str, **more: object) -> Contender:
        return processes.agent(
            self._server, self._folder / name, self._log, **more
        )

    def _load(self, who: Contender, at_once: int) -> load.Figures:
        requests = max(self._requests, 2 * at_once)
        return load.run(self._server, who.channel, "bench0", at_once, requests)

    def requests(self) -> None:
        """Throughput, latency, memory and idling."""
        agent, floor, again = (
            self.agent("agent"),
            processes.floor(self._server, "floor"),
            processes.floor(self._server, "again"),
        )
        for who in (agent, floor, again):
            self._load(who, 8)
        for n in AT_ONCE:
            found = in_turn(
                self._rounds,
                [partial(self._load, who, n) for who in (agent, floor, again)],
            )
            for name in found[0]:
                self.add(
                    figure(f"{n} at once: {name}", *(f[name] for f in found))
                )
        pss = [[who.pss()] for who in (agent, floor, again)]
        self.add(figure("PSS, MB", *pss))
        before = [who.cpu() for who in (agent, floor)]
        time.sleep(IDLE)
        idle = [
            (who.cpu() - was) / IDLE * 100
            for who, was in zip((agent, floor), before)
        ]
        self.add(Figure("idle, % of a core", *idle, 0, 0, 0))
        for who in (agent, floor, again):
            who.stop()

    def as_user(self) -> None:
        """Commands of another user, against those of the agent's own."""
        own = self.agent("own")
        other = self.agent("other", as_user="nobody")
        for n in (8, 64):
            found = in_turn(
                self._rounds,
                [partial(self._load, who, n) for who in (other, own)],
            )
            name = "requests/s"
            self.add(
                figure(
                    f"{n} at once: {name}, as nobody/own user",
                    *(f[name] for f in found),
                )
            )
        own.stop()
        other.stop()

    def foreign(self) -> None:
        """Messages for other nodes, against reading and parsing alone."""
        agent = self.agent("foreign")
        reader = processes.reader(self._server, "reader")
        found = in_turn(
            self._rounds,
            [
                partial(
                    load.drain, self._server, who.channel, "bench0", 20_000
                )
                for who in (agent, reader)
            ],
        )
        name = "messages/s"
        self.add(
            figure("for other nodes: messages/s", *(f[name] for f in found))
        )
        agent.stop()
        reader.stop()

    def start(self) -> None:
        """Time to the subscription; with many tasks, against their parse."""
        times: List[List[float]] = [[], [], []]
        for _ in range(self._rounds):
            for into, begin in zip(
                times,
                (
                    lambda: self.agent("start"),
                    lambda: processes.floor(self._server, "floor"),
                    lambda: processes.floor(self._server, "floor"),
                ),
            ):
                who = begin()
                into.append(who.started * 1e3)
                who.stop()
        self.add(figure("start, ms", *times))

    def many_tasks(self) -> None:
        few, many = self.agent("few", tasks=10), self.agent("many", tasks=1000)

        def cost(who: Contender) -> load.Figures:
            before = who.cpu()
            self._load(who, 8)
            return {"us": (who.cpu() - before) / self._requests * 1e6}

        found = in_turn(self._rounds, [lambda: cost(many), lambda: cost(few)])
        name = "us of processor for a request, 1000/10 tasks"
        self.add(figure(name, *(f["us"] for f in found)))
        few.stop()
        many.stop()
        self._load_many(1000, self._rounds)
        self._load_many(10_000, 1)

    def _load_many(self, tasks: int, rounds: int) -> None:
        """Processor time of a start and of a reload, against the parse."""
        name = f"tasks{tasks}"
        starts, reloads, parses = [], [], []
        for _ in range(rounds):
            notices = processes.Notices(self._folder)
            env = {**self._log, **notices.environment}
            folder = self._folder / name
            who = processes.agent(self._server, folder, env, tasks=tasks)
            notices.wait_for(b"READY=1")
            started = who.cpu()
            os.kill(who.pid, signal.SIGHUP)
            notices.wait_for(b"RELOADING=1")
            notices.wait_for(b"READY=1")
            starts.append(started * 1e3)
            reloads.append((who.cpu() - started) * 1e3)
            who.stop()
            notices.close()
            begin = time.process_time()
            for path in (self._folder / name / "tasks").iterdir():
                yaml.load(path.read_text(), yaml.CSafeLoader)
            parses.append((time.process_time() - begin) * 1e3)
        what = f"with {tasks} tasks/their parse, ms"
        self.add(
            figure(f"start {what}", starts, parses),
            figure(f"reload {what}", reloads, parses),
        )

    def client(self) -> None:
        """Processor time of a short call, against the import of redis-py."""
        agent = self.agent("client")
        script = str(ROOT / "bin/ngcp-invoke-task")
        options = ["--config-dir", str(self._folder / "client")]
        call = [script, *options, "--task", "bench0"]
        redis = ["-c", "import redis.asyncio"]
        for words in (call, redis):
            _processor_time(words)  # compile the modules
        times: List[List[float]] = [[], [], []]
        for _ in range(self._rounds):
            for into, words in zip(times, (call, redis, redis)):
                into.append(_processor_time(words) * 1e3)
        name = "processor, ngcp-invoke-task/import redis, ms"
        self.add(figure(name, *times))
        agent.stop()

    def growth(self) -> None:
        """Memory after many requests, against that of their uuids."""
        agent = self.agent("growth")

        def run(requests: int) -> None:
            load.run(self._server, agent.channel, "bench0", 64, requests)

        grown = growth.measure(run, agent.pss)
        agent.stop()
        explained = growth.of_uuids()
        name = "growth/of the uuids, MB"
        self.add(Figure(name, grown, explained, 0, 0, 0))
        name = f"growth beside the uuids, MB (at most {growth.MOST:g})"
        self.add(Figure(name, grown - explained, 0, 0, 0, 0))


def _processor_time(words: List[str]) -> float:
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        env=processes.environment(),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.WEXITSTATUS(status)
    assert status == 0, words
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=[*PARTS, "growth"],
        default=PARTS,
        help="parts to measure (default: all but growth, which takes long)",
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--svg", type=Path, help="draw them there")
    arguments = parser.parse_args()
    print(HEADING)
    with tempfile.TemporaryDirectory() as name, processes.journal() as log:
        # Other users must be able to run what is below.
        Path(name).chmod(0o755)
        bench = Bench(Path(name), arguments.rounds, arguments.requests, log)
        try:
            for part in arguments.only:
                if part == "as_user" and os.geteuid() != 0:
                    print("as_user: not measured, needs root", file=sys.stderr)
                    continue
                getattr(bench, part)()
        finally:
            bench.stop()
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "command": _command(arguments),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "figures": [asdict(one) for one in bench.figures],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.svg:
        arguments.svg.write_text(chart.draw(found))
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """Return what measures the same figures again."""
    rounds, requests = arguments.rounds, arguments.requests
    words = ["--only", *arguments.only] if arguments.only != PARTS else []
    if (rounds, requests) != (ROUNDS, REQUESTS):
        words += ["--rounds", f"{rounds}", "--requests", f"{requests}"]
    if words == ["--only", "growth"]:
        return "make bench-growth"
    return shlex.join(["python", "-m", "bench", *words] if words else _MAKE)


PARTS = ("requests", "as_user", "foreign", "start", "many_tasks", "client")


if __name__ == "__main__":
    sys.exit(main())
