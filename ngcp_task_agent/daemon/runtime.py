"""Runtime: the node, backends and tasks in force."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import (
    Any,
    Coroutine,
    Dict,
    FrozenSet,
    List,
    Optional,
    Set,
    Tuple,
    Type,
)

from ngcp_task_agent import background
from ngcp_task_agent.backends.base import LEAVING, Backend
from ngcp_task_agent.brokers.agent import BUILT_IN, AgentBroker, at_once
from ngcp_task_agent.brokers.base import Broker
from ngcp_task_agent.config.loader import Config
from ngcp_task_agent.config.models import (
    UNKNOWN,
    BackendConfig,
    Place,
    TaskConfig,
)
from ngcp_task_agent.display import counted
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node.node import Node
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.channel import Channel
from ngcp_task_agent.requests.counters import Counters
from ngcp_task_agent.requests.dispatch import Dispatcher
from ngcp_task_agent.requests.jobs import Jobs
from ngcp_task_agent.requests.limits import Limits
from ngcp_task_agent.requests.task import Task

CONNECT_TIMEOUT = 30.0  # seconds for a backend to start listening
FLUSH = 5.0  # seconds to send the last answers; restarts while they are sent
RETIRED_FLUSH = 60.0  # the same, for a backend replaced by a reload
END = 10.0  # seconds each to end, and then to cancel, what still runs

# Tasks that are made in a row.
_BURST = 100

# Characters of a backend's trouble, and of a task's name, in summary().
_LONGEST_TROUBLE, _LONGEST_NAME = 80, 40


def shortened(text: str, length: int) -> str:
    """Cut a text to a number of characters, and show that it is cut."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def with_built_in(config: Config) -> List[TaskConfig]:
    """Return the configured tasks, and those that the agent adds."""
    agent, tasks = config.agent, list(config.tasks)
    taken = {task.place for task in tasks}
    for backend, channel in sorted({place[:2] for place in taken}):
        tasks += [
            TaskConfig(
                config.folder / "agent.yml",
                name,
                backend,
                channel,
                "agent",
                {"answer": BUILT_IN[name]},
                max_running=at_once(name),
                allow_src=agent.built_in_allow_src,
                is_built_in=True,
            )
            for name in agent.built_in_tasks
            if (backend, channel, name) not in taken
        ]
    return tasks


class Runtime:
    """Applies one configuration after another, until drain().

    A task or backend whose configuration stays the same is not disturbed.  One
    that changes or goes is retired: it takes no more requests, and ends in the
    background after those that it has taken.
    """

    def __init__(self) -> None:
        self.jobs = Jobs()
        self._node: Optional[Node] = None
        self._limits = Limits()
        self._dispatcher = Dispatcher(self.identity, 0, 0)
        self._started = time.monotonic()
        self._stop_timeout = 0.0
        self._backends: Dict[str, Tuple[BackendConfig, Backend]] = {}
        self._tasks: Dict[Place, Tuple[TaskConfig, Task]] = {}
        self._retired_backends: Set[Backend] = set()
        self._retired_tasks: Set[Task] = set()
        self._retiring: Set[asyncio.Task[None]] = set()

    @property
    def tasks(self) -> List[TaskConfig]:
        """The configured tasks in force."""
        return [t for t, _ in self._tasks.values() if not t.is_built_in]

    @property
    def backends(self) -> List[Tuple[str, str, str]]:
        """Name, state and trouble of each, sorted."""
        return [
            (name, backend.status, backend.trouble)
            for name, (_, backend) in sorted(self._backends.items())
        ]

    @property
    def counters(self) -> Counters:
        return self._dispatcher.counters

    @property
    def longest_drain(self) -> float:
        """The maximum duration of drain(), in seconds."""
        return self._stop_timeout + 2 * END + (LEAVING + 1) * FLUSH

    def identity(self) -> Identity:
        """Return who this node is now."""
        assert self._node, "apply() comes first"
        return self._node.identity()

    @property
    def unknown(self) -> List[str]:
        """What is unknown about this node now: ``state``, ``status``."""
        facts = self._node.identity().facts if self._node else {}
        return [k for k in ("state", "status") if UNKNOWN in facts.get(k, ())]

    def summary(self) -> str:
        """Return a line such as ``redis: subscribed, 12 tasks, 3 running,
        oldest: ping for 20 s``.
        """
        parts = []
        for name, status, trouble in self.backends:
            why = shortened(trouble, _LONGEST_TROUBLE)
            parts.append(f"{name}: {status}{why and f' ({why})'}")
        parts.append(counted(len(self.tasks), "task"))
        parts.append(f"{self._limits.slots.taken} running")
        oldest = self.jobs.oldest
        if oldest and oldest.age >= 1:
            name = shortened(oldest.request.task, _LONGEST_NAME)
            parts.append(f"oldest: {name} for {int(oldest.age)} s")
        return ", ".join(parts)

    async def apply(self, config: Config) -> None:
        """Apply a configuration.

        :raises OSError: when the node's name cannot be determined; then
            nothing has changed
        """
        await self._set_node(config)
        self._limits.slots.limit = config.agent.max_running
        self._limits.max_request_memory = config.agent.max_request_memory
        self._stop_timeout = config.agent.stop_timeout
        self._dispatcher.max_request = config.agent.max_request
        self._dispatcher.max_response = config.agent.max_response
        replaced = {
            name
            for name, (was, _) in self._backends.items()
            if config.backends.get(name) != was
        }
        removed = await self._set_tasks(config, replaced)
        await asyncio.gather(
            *(self._retire_backend(name, removed) for name in replaced)
        )
        channels: Dict[str, Set[str]] = {
            name: set() for name in config.backends
        }
        for backend, channel, _ in self._tasks:
            channels[backend].add(channel)
        await asyncio.gather(
            *(
                self._set_backend(config, name, frozenset(channels[name]))
                for name in config.backends
            )
        )

    async def stop_listening(self) -> None:
        """Take no more requests.  Bounded in time."""
        await asyncio.gather(
            *(b.stop_listening() for _, b in self._backends.values())
        )

    async def drain(self, hurry: asyncio.Event) -> None:
        """Let running tasks end, send the last answers, and stop everything.

        :param hurry: when set, running tasks get no more time
        """
        await self._end_tasks(hurry)
        ending = {b for _, b in self._backends.values()}
        # Also a retired one that still sends: it gets less time now.
        ending |= self._retired_backends
        await asyncio.gather(*(b.stop(FLUSH) for b in ending))
        if self._retiring:
            await asyncio.wait(set(self._retiring), timeout=FLUSH)
        if self._node:
            await self._node.stop()

    async def _set_node(self, config: Config) -> None:
        before = self._node
        node = await asyncio.to_thread(Node, config.agent.node)
        await node.start()
        self._node = node
        if before:
            await before.stop()

    async def _set_tasks(
        self, config: Config, replaced: Set[str]
    ) -> List[Task]:
        """Reuse unchanged tasks, create the rest; return those removed."""
        before, now = dict(self._tasks), {}
        for number, task in enumerate(with_built_in(config), 1):
            place = task.place
            was = before.get(place)
            if was and was[0] == task and task.backend not in replaced:
                now[place] = before.pop(place)
            else:
                made = self._make_task(config, task, was[1] if was else None)
                now[place] = task, made
            if number % _BURST == 0:
                await asyncio.sleep(0)  # requests must not wait for thousands
        self._tasks = now
        routes: Dict[Tuple[str, str], Dict[str, Task]] = {}
        for (backend, channel, name), (_, made) in now.items():
            routes.setdefault((backend, channel), {})[name] = made
        self._dispatcher.set_routes(routes)
        removed = [task for _, task in before.values()]
        self._retired_tasks.update(removed)
        for left in removed:
            self._in_background(self._retire_task(left))
        return removed

    def _make_task(
        self, config: Config, task: TaskConfig, before: Optional[Task]
    ) -> Task:
        kind: Type[Broker] = AgentBroker
        if not task.is_built_in:
            kind = config.plugins.brokers[task.broker]
        broker = kind(task.broker_options)
        view = Channel(
            task.place[:2],
            config.folder,
            self.identity,
            self._dispatcher.tasks,
            self.jobs,
            self._started,
        )
        broker.start(view)
        return Task(task, broker, self._limits, self.jobs, before)

    async def _set_backend(
        self, config: Config, name: str, channels: FrozenSet[str]
    ) -> None:
        if name in self._backends:
            backend = self._backends[name][1]
            step = backend.listen(channels)
        else:
            settings = config.backends[name]
            kind = config.plugins.backends[settings.type]
            backend = kind(name, settings.options, self._dispatcher.receive)
            self._backends[name] = settings, backend
            step = backend.start(channels)
        try:
            # A plugin may break its promise to return in time.
            await asyncio.wait_for(step, CONNECT_TIMEOUT)
        except asyncio.TimeoutError:
            journal.record(
                journal.BACKEND_DOWN,
                f"backend {name}: not ready after {CONNECT_TIMEOUT:.0f} s",
                backend=name,
            )

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = background.start(coroutine)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire_task(self, task: Task) -> None:
        await task.finished()
        self._retired_tasks.discard(task)

    async def _retire_backend(self, name: str, removed: List[Task]) -> None:
        _, backend = self._backends.pop(name)
        self._retired_backends.add(backend)
        await backend.stop_listening()
        self._in_background(self._end_backend(backend, removed))

    async def _end_backend(self, backend: Backend, after: List[Task]) -> None:
        for task in after:
            await task.finished()
        await backend.stop(RETIRED_FLUSH)
        self._retired_backends.discard(backend)

    async def _end_tasks(self, hurry: asyncio.Event) -> None:
        self._limits.slots.limit = sys.maxsize
        for task in self._retired_tasks.union(
            task for _, task in self._tasks.values()
        ):
            task.refuse()
        finished = asyncio.ensure_future(self.jobs.finished())
        hurrying = asyncio.ensure_future(hurry.wait())
        events: Set[asyncio.Future[Any]] = {finished, hurrying}
        await asyncio.wait(
            events,
            timeout=self._stop_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        hurrying.cancel()
        for step in (self.jobs.stop, self.jobs.abort):
            step()
            await asyncio.wait({finished}, timeout=END)
            if finished.done():
                return
