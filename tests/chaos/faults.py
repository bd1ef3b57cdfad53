"""Faults: the kinds of things that go wrong."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from tests.chaos.agent import Agent
from tests.chaos.server import USER
from tests.chaos.world import World

# Heals a fault; returns whether it succeeded.
End = Callable[[], bool]
Begin = Callable[[World, "Fault"], Optional[End]]

_SLOW_LINE = 20e6 / 8  # bytes a second


@dataclass(frozen=True)
class Fault:
    """A planned fault.

    :ivar at: seconds after the start of the run
    :ivar node: whose line or process it hits, if it hits one
    :ivar pick: 0 to 1, for any other choice
    """

    at: float
    kind: str
    node: int
    seconds: float
    pick: float


class Kind(NamedTuple):
    """A kind of fault.

    :ivar cause: what it can do to answers: ``restart`` (the server forgets
        everything), ``rights`` (to publish are gone), ``refusal`` (of
        scripts), ``break`` (of connections), ``reload`` or ``agent`` (it ends)
    :ivar weights: how often, at a slow and at a fast pace
    :ivar slow: the range of seconds that it lasts
    :ivar fast: the same at a fast pace
    """

    begin: Begin
    cause: str
    weights: Tuple[int, int]
    slow: Tuple[float, float] = (0, 0)
    fast: Tuple[float, float] = (0, 0)


class Missed(Exception):
    """The fault cannot happen now."""


def _agent(world: World, fault: Fault) -> Agent:
    return world.agents[fault.node]


def _command(world: World, *words: object) -> None:
    """Send a command to the server, which must answer."""
    if world.server.holds_commands:
        raise Missed
    world.server.command(*words)


def _kill(
    world: World, agents: List[Agent], which: Callable[[bool], bool]
) -> None:
    if world.server.holds_commands:
        raise Missed
    ids = [
        client["id"]
        for agent in agents
        for client in agent.connections()
        if which(client["sub"] != "0" or client["psub"] != "0")
    ]
    if not ids:
        raise Missed
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
        raise Missed
    server.stall()

    def end() -> bool:
        # It may have restarted in the meantime.
        server.go_on()
        return True

    return end


def _pause_all(world: World, fault: Fault) -> None:
    if world.server.holds_commands:
        raise Missed
    world.server.pause(fault.seconds, "ALL")


def _pause_writes(world: World, fault: Fault) -> None:
    if world.server.holds_commands:
        raise Missed
    world.server.pause(fault.seconds, "WRITE")


def _restart(world: World, fault: Fault) -> End:
    choices: Tuple[Optional[bool], ...] = (None, None, True, False)
    world.end_server(choices[int(fault.pick * len(choices))])

    def end() -> bool:
        world.start_server()
        return True

    return end


def _if_answers(world: World, *commands: Tuple[object, ...]) -> End:
    """End a fault by commands, once the server answers."""

    def end() -> bool:
        if world.server.holds_commands:
            return False
        for command in commands:
            world.server.command(*command)
        return True

    return end


def heal(world: World) -> Iterator[Tuple[object, ...]]:
    """Return the commands that reset a server to its initial state."""
    yield "CLIENT", "UNPAUSE"
    yield _ENOUGH_MEMORY
    yield from _saving(world)
    yield _rights(world)


_ENOUGH_MEMORY = ("CONFIG", "SET", "maxmemory", "0")


def _saving(world: World) -> Iterator[Tuple[object, ...]]:
    yield "CONFIG", "SET", "dir", str(world.server.folder)
    yield "CONFIG", "SET", "save", ""


def _rights(world: World) -> Tuple[object, ...]:
    return ("ACL", "SETUSER", USER, "reset", *world.user)


def _full_memory(world: World, fault: Fault) -> End:
    _command(world, "CONFIG", "SET", "maxmemory", "1")
    return _if_answers(world, _ENOUGH_MEMORY)


def _failed_save(world: World, fault: Fault) -> End:
    """Make Redis refuse writes, as after a failed save."""
    folder = world.server.folder / "gone"
    folder.mkdir(exist_ok=True)
    try:
        _command(world, "CONFIG", "SET", "dir", str(folder))
    finally:
        shutil.rmtree(folder)
    _command(world, "CONFIG", "SET", "save", "86400 1000000")
    _command(world, "BGSAVE")
    return _if_answers(world, *_saving(world))


def _take_rights(*rights: str) -> Begin:
    def begin(world: World, fault: Fault) -> End:
        _command(world, "ACL", "SETUSER", USER, *rights)
        return _if_answers(world, _rights(world))

    return begin


def _proxied(cut: Callable[[Agent, Fault], int]) -> Begin:
    """Cut an agent's line, if it has its own."""

    def begin(world: World, fault: Fault) -> None:
        agent = _agent(world, fault)
        if not agent.proxy or not cut(agent, fault):
            raise Missed

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
            raise Missed
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
        raise Missed
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
    """Replace the backend."""
    agent = _agent(world, fault)
    agent.change_backend()
    agent.signal(signal.SIGHUP)


def _stop_agent(world: World, fault: Fault) -> End:
    agent = _agent(world, fault)
    if not agent.signal(signal.SIGTERM):
        raise Missed
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
# Faults of an agent's own line; the first agent has none.
OF_LINES = {
    "reset",
    "close",
    "half-to-server",
    "half-to-agent",
    "black-hole",
    "stuck",
    "slow-line",
}
OF_ALL = {
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
