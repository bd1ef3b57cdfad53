"""Faults: what goes wrong, when, and for how long; a seed says all of it."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Callable,
    Collection,
    Counter,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    TextIO,
    Tuple,
)

import redis

from tests.chaos.tasks import NODES
from tests.chaos.world import USER, Agent, World

# Heals a fault; returns whether it could.
End = Callable[[], bool]
Begin = Callable[[World, "Fault"], Optional[End]]

_PHASE = (5.0, 15.0)  # seconds of a pace
_SLOW = (0.5, 3.0)  # seconds between two faults
_FAST = (0.01, 0.15)
_SLOW_LINE = 20e6 / 8  # bytes a second
_RETRY = 0.02  # seconds until what could not be healed is tried again


@dataclass(frozen=True)
class Fault:
    """A fault that is planned.

    :ivar at: seconds after the begin of the run
    :ivar node: whose line or process it hits, if it hits one
    :ivar pick: 0 to 1, for what else is to be chosen
    """

    at: float
    kind: str
    node: int
    seconds: float
    pick: float


class Window(NamedTuple):
    """When there was a fault, in unix time.

    :ivar cause: see Kind
    :ivar node: None where it hits all
    """

    begin: float
    end: float
    cause: str
    kind: str
    node: Optional[str]


class Kind(NamedTuple):
    """A kind of fault.

    :ivar cause: what it may do to answers: ``restart`` (the server forgets
        all), ``rights`` (to publish are gone), ``refusal`` (of scripts),
        ``break`` (of connections), ``reload`` or ``agent`` (is ended)
    :ivar weights: how often, at a slow and at a fast pace
    :ivar slow: seconds that it lasts, from and to
    :ivar fast: the same at a fast pace
    """

    begin: Begin
    cause: str
    weights: Tuple[int, int]
    slow: Tuple[float, float] = (0, 0)
    fast: Tuple[float, float] = (0, 0)


def plan(seed: int, minutes: float, kinds: Collection[str]) -> Iterator[Fault]:
    """The faults of a run, in their order."""
    dice = random.Random(seed)
    at, end, is_fast = 2.0, minutes * 60, False
    while at < end:
        change = at + dice.uniform(*_PHASE)
        weights = [KINDS[kind].weights[is_fast] for kind in kinds]
        while at < min(change, end) and any(weights):
            kind = dice.choices(list(kinds), weights)[0]
            nodes = _PROXIED if kind in _OF_LINES else range(len(NODES))
            lasts = KINDS[kind].fast if is_fast else KINDS[kind].slow
            yield Fault(
                at,
                kind,
                dice.choice(nodes),
                dice.uniform(*lasts),
                dice.random(),
            )
            at += dice.uniform(*(_FAST if is_fast else _SLOW))
        at = max(at, change) if not any(weights) else at
        is_fast = not is_fast


class _Active(NamedTuple):
    until: float  # monotonic
    begin: float  # unix
    fault: Fault
    end: End


class Storm:
    """Lets the planned faults happen.

    :param log: gets a line for each
    :ivar windows: of what has happened
    :ivar counts: of what has happened, by kind
    :ivar missed: of what could not, such as a command to a stalled server
    """

    def __init__(self, world: World, log: TextIO) -> None:
        self._world = world
        self._log = log
        self._active: List[_Active] = []
        self.windows: List[Window] = []
        self.counts: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    def run(self, faults: Iterator[Fault], seconds: float) -> None:
        """Returns after the last of them, and so many seconds at least."""
        begin = time.monotonic()
        for fault in faults:
            self._wait(begin + fault.at)
            self._begin(fault)
        self._wait(begin + seconds)

    def heal(self) -> None:
        """End whatever lasts."""
        self._active = [a._replace(until=0) for a in self._active]
        while self._active:
            self._wait(time.monotonic() + _RETRY)
        self._world.server.command("CLIENT", "UNPAUSE", within=30)

    def _wait(self, until: float) -> None:
        """Wait, and end what is over meanwhile."""
        while True:
            now = time.monotonic()
            due = [a for a in self._active if a.until <= now]
            for active in due:
                self._end(active)
            now = time.monotonic()
            if now >= until:
                return
            times = [max(a.until, now + _RETRY) for a in self._active]
            time.sleep(max(0.0, min([until, *times]) - now))

    def _begin(self, fault: Fault) -> None:
        kind = KINDS[fault.kind]
        if any(
            a.fault.kind == fault.kind and _where(a.fault) == _where(fault)
            for a in self._active
        ):
            self._note("missed", fault)
            return
        begin = time.time()
        try:
            end = kind.begin(self._world, fault)
        except (redis.RedisError, _Missed):
            self._note("missed", fault)
            return
        self.counts[fault.kind] += 1
        self._note("begin", fault)
        until = time.monotonic() + fault.seconds
        self._active.append(
            _Active(until, begin, fault, end or (lambda: True))
        )

    def _end(self, active: _Active) -> None:
        try:
            if not active.end():
                return
        except redis.RedisError:
            return
        self._active.remove(active)
        if active.fault.seconds:
            self._note("end", active.fault)
        self.windows.append(
            Window(
                active.begin,
                time.time(),
                KINDS[active.fault.kind].cause,
                active.fault.kind,
                _where(active.fault),
            )
        )

    def _note(self, what: str, fault: Fault) -> None:
        if what == "missed":
            self.missed[fault.kind] += 1
        self._log.write(
            f"{time.time():.3f} {what} {fault.kind} "
            f"{_where(fault) or 'all'} {fault.seconds:.3f} {fault.pick:.3f}\n"
        )
        self._log.flush()


class _Missed(Exception):
    """The fault cannot happen now."""


def _where(fault: Fault) -> Optional[str]:
    if fault.kind in _OF_ALL:
        return None
    return NODES[fault.node]


def _agent(world: World, fault: Fault) -> Agent:
    return world.agents[fault.node]


def _command(world: World, *words: object) -> None:
    """A command to the server, which must answer."""
    if world.server.holds_commands:
        raise _Missed
    world.server.command(*words)


def _kill(
    world: World, agents: List[Agent], which: Callable[[bool], bool]
) -> None:
    if world.server.holds_commands:
        raise _Missed
    ids = [
        client["id"]
        for agent in agents
        for client in agent.connections()
        if which(client["sub"] != "0" or client["psub"] != "0")
    ]
    if not ids:
        raise _Missed
    connection = world.server.connect(socket_timeout=5)
    pipeline = connection.pipeline(transaction=False)
    for number in ids:
        pipeline.execute_command("CLIENT", "KILL", "ID", number)
    pipeline.execute()
    connection.connection_pool.disconnect()


def _kill_subscribers(world: World, fault: Fault) -> None:
    _kill(world, [_agent(world, fault)], lambda is_subscribed: is_subscribed)


def _kill_publishers(world: World, fault: Fault) -> None:
    _kill(
        world, [_agent(world, fault)], lambda is_subscribed: not is_subscribed
    )


def _kill_agents_connections(world: World, fault: Fault) -> None:
    _kill(world, [_agent(world, fault)], lambda is_subscribed: True)


def _kill_all_connections(world: World, fault: Fault) -> None:
    _kill(world, world.agents, lambda is_subscribed: True)


def _stall(world: World, fault: Fault) -> End:
    server = world.server
    if not server.is_up:
        raise _Missed
    server.stall()

    def end() -> bool:
        # It may have been restarted meanwhile.
        server.go_on()
        return True

    return end


def _pause_all(world: World, fault: Fault) -> None:
    if world.server.holds_commands:
        raise _Missed
    world.server.pause(fault.seconds, "ALL")


def _pause_writes(world: World, fault: Fault) -> None:
    if world.server.holds_commands:
        raise _Missed
    world.server.pause(fault.seconds, "WRITE")


def _restart(world: World, fault: Fault) -> End:
    choices: Tuple[Optional[bool], ...] = (None, None, True, False)
    world.end_server(choices[int(fault.pick * len(choices))])

    def end() -> bool:
        world.start_server()
        return True

    return end


def _if_answers(world: World, *commands: Tuple[object, ...]) -> End:
    """Ends a fault by commands, once the server answers."""

    def end() -> bool:
        if world.server.holds_commands:
            return False
        for command in commands:
            world.server.command(*command)
        return True

    return end


def _full_memory(world: World, fault: Fault) -> End:
    _command(world, "CONFIG", "SET", "maxmemory", "1")
    return _if_answers(world, ("CONFIG", "SET", "maxmemory", "0"))


def _failed_save(world: World, fault: Fault) -> End:
    """Redis refuses writes after it could not save."""
    folder = world.server.folder / "gone"
    folder.mkdir(exist_ok=True)
    try:
        _command(world, "CONFIG", "SET", "dir", str(folder))
    finally:
        shutil.rmtree(folder)
    _command(world, "CONFIG", "SET", "save", "86400 1000000")
    _command(world, "BGSAVE")
    return _if_answers(
        world,
        ("CONFIG", "SET", "dir", str(world.server.folder)),
        ("CONFIG", "SET", "save", ""),
    )


def _take_rights(*rights: str) -> Begin:
    def begin(world: World, fault: Fault) -> End:
        _command(world, "ACL", "SETUSER", USER, *rights)
        return _if_answers(
            world, ("ACL", "SETUSER", USER, "reset", *world.user)
        )

    return begin


def _proxied(cut: Callable[[Agent, Fault], int]) -> Begin:
    """A cut of an agent's line, if it has one of its own."""

    def begin(world: World, fault: Fault) -> None:
        agent = _agent(world, fault)
        if not agent.proxy or not cut(agent, fault):
            raise _Missed

    return begin


def _reset(agent: Agent, fault: Fault) -> int:
    assert agent.proxy
    return agent.proxy.reset(fault.pick)


def _close(agent: Agent, fault: Fault) -> int:
    assert agent.proxy
    return agent.proxy.close(fault.pick)


def _close_to_server(agent: Agent, fault: Fault) -> int:
    assert agent.proxy
    return agent.proxy.close_half(fault.pick, True)


def _close_to_agent(agent: Agent, fault: Fault) -> int:
    assert agent.proxy
    return agent.proxy.close_half(fault.pick, False)


def _hold(new_ones_too: bool) -> Begin:
    def begin(world: World, fault: Fault) -> End:
        proxy = _agent(world, fault).proxy
        if not proxy:
            raise _Missed
        proxy.hold(new_ones_too)

        def end() -> bool:
            assert proxy
            proxy.release()
            return True

        return end

    return begin


def _slow_line(world: World, fault: Fault) -> End:
    proxy = _agent(world, fault).proxy
    if not proxy:
        raise _Missed
    proxy.slow(_SLOW_LINE)

    def end() -> bool:
        assert proxy
        proxy.slow(None)
        return True

    return end


def _reload(world: World, fault: Fault) -> None:
    _agent(world, fault).signal(signal.SIGHUP)


def _reload_faulty(world: World, fault: Fault) -> End:
    agent = _agent(world, fault)
    file: Path = agent.write("tasks/faulty.yml", "name: [faulty")
    agent.signal(signal.SIGHUP)

    def end() -> bool:
        file.unlink()
        agent.signal(signal.SIGHUP)
        return True

    return end


def _reload_backend(world: World, fault: Fault) -> None:
    """Replaces the backend."""
    agent = _agent(world, fault)
    agent.change_backend()
    agent.signal(signal.SIGHUP)


def _stop_agent(world: World, fault: Fault) -> End:
    agent = _agent(world, fault)
    agent.signal(signal.SIGTERM)
    world.restarted.add(agent.node)

    def end() -> bool:
        status = agent.exit_status()
        if status is None:
            return False
        agent.note_exit(status)
        agent.start()
        return True

    return end


def _kill_agent(world: World, fault: Fault) -> End:
    agent = _agent(world, fault)
    world.left += len(agent.children())
    agent.kill()
    world.restarted.add(agent.node)

    def end() -> bool:
        agent.start()
        return True

    return end


KINDS: Dict[str, Kind] = {
    "kill-subscribers": Kind(_kill_subscribers, "break", (20, 60)),
    "kill-publishers": Kind(_kill_publishers, "break", (20, 80)),
    "kill-connections": Kind(_kill_agents_connections, "break", (15, 40)),
    "kill-all": Kind(_kill_all_connections, "break", (10, 10)),
    "stall": Kind(_stall, "break", (15, 8), (0.1, 4), (0.02, 0.3)),
    "pause-all": Kind(_pause_all, "break", (10, 6), (0.1, 4), (0.02, 0.3)),
    "pause-writes": Kind(
        _pause_writes, "break", (10, 15), (0.1, 4), (0.02, 0.5)
    ),
    "restart": Kind(_restart, "restart", (5, 1), (0.05, 3), (0.05, 0.5)),
    "full-memory": Kind(_full_memory, "refusal", (8, 4), (0.3, 5), (0.05, 1)),
    "failed-save": Kind(_failed_save, "refusal", (8, 3), (0.3, 5), (0.05, 1)),
    "no-scripts": Kind(
        _take_rights("-eval", "-evalsha"),
        "refusal",
        (4, 2),
        (0.3, 5),
        (0.05, 1),
    ),
    "no-keys": Kind(
        _take_rights("-get", "-set"), "refusal", (4, 2), (0.3, 5), (0.05, 1)
    ),
    "no-publish": Kind(
        _take_rights("-publish"), "rights", (3, 1), (0.3, 5), (0.05, 1)
    ),
    "no-channels": Kind(
        _take_rights("resetchannels", "&ngcp-task-agent-redis"),
        "rights",
        (3, 1),
        (0.3, 5),
        (0.05, 1),
    ),
    "reset": Kind(_proxied(_reset), "break", (15, 40)),
    "close": Kind(_proxied(_close), "break", (15, 40)),
    "half-to-server": Kind(_proxied(_close_to_server), "break", (8, 10)),
    "half-to-agent": Kind(_proxied(_close_to_agent), "break", (8, 10)),
    "black-hole": Kind(_hold(True), "break", (12, 6), (0.5, 6), (0.05, 0.5)),
    "stuck": Kind(_hold(False), "break", (12, 8), (0.5, 6), (0.05, 1)),
    "slow-line": Kind(_slow_line, "break", (10, 2), (2, 8), (1, 3)),
    "reload": Kind(_reload, "reload", (8, 4)),
    "reload-faulty": Kind(
        _reload_faulty, "reload", (6, 2), (0.2, 2), (0.2, 1)
    ),
    "reload-backend": Kind(_reload_backend, "reload", (8, 4)),
    "stop-agent": Kind(_stop_agent, "agent", (60, 20), (0.1, 2), (0.1, 1)),
    "kill-agent": Kind(_kill_agent, "agent", (60, 20), (0.1, 2), (0.1, 1)),
}
# Of the line of an agent that has one of its own; the first has none.
_OF_LINES = {
    "reset",
    "close",
    "half-to-server",
    "half-to-agent",
    "black-hole",
    "stuck",
    "slow-line",
}
_PROXIED = range(1, len(NODES))
_OF_ALL = {
    "kill-all",
    "stall",
    "pause-all",
    "pause-writes",
    "restart",
    "full-memory",
    "failed-save",
    "no-scripts",
    "no-keys",
    "no-publish",
    "no-channels",
}
