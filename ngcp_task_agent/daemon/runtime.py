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
    Iterator,
    List,
    Optional,
    Set,
    Tuple,
)

from ngcp_task_agent import background
from ngcp_task_agent.backends.base import LEAVING, Backend
from ngcp_task_agent.brokers.agent import AgentBroker
from ngcp_task_agent.config.loader import Config
from ngcp_task_agent.config.models import (
    BUILT_IN_TASKS,
    UNKNOWN,
    BackendConfig,
    Place,
    TaskConfig,
    built_in_task,
)
from ngcp_task_agent.daemon.channel_view import ChannelView
from ngcp_task_agent.display import counted
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node.node import Node
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.counters import Counters
from ngcp_task_agent.requests.dispatch import Dispatcher
from ngcp_task_agent.requests.jobs import Jobs
from ngcp_task_agent.requests.limits import Limits
from ngcp_task_agent.requests.task import Task

CONNECT_TIMEOUT = 30.0  # seconds for a backend to start listening
FLUSH = 5.0  # seconds to send the last answers; restarts while they are sent
RETIRED_FLUSH = 60.0  # the same, for a backend replaced by a reload
END = 10.0  # seconds each to end, and then to cancel, what still runs

# Bytes of the requests for tasks that take no slot, for each channel: more
# than all those for ngcp.cancel, which can take seconds.
_OWN_MEMORY = 4 << 20

# Tasks that are made in a row.
_BURST = 100

# Characters of a backend's trouble, and of a task's name, in summary().
_LONGEST_TROUBLE, _LONGEST_NAME = 80, 40


def shortened(text: str, length: int) -> str:
    """Cut a text to a number of characters, and show that it is cut."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _built_in_tasks(config: Config) -> Iterator[TaskConfig]:
    """Return the built-in tasks of each control channel in use."""
    asked = config.agent.built_in_tasks
    names = (*BUILT_IN_TASKS,) if asked is True else asked or ()
    taken = {task.place for task in config.tasks}
    for backend, channel in {task.place[:2]: None for task in config.tasks}:
        for name in names:
            if (backend, channel, name) not in taken:
                yield built_in_task(
                    name, config.agent, config.folder, backend, channel
                )


class Runtime:
    """Applies one configuration after another, until drain().

    A task or backend whose configuration stays the same is not disturbed.  One
    that changes or goes is retired: it takes no more requests, and ends in the
    background after those that it has taken.
    """

    def __init__(self) -> None:
        self.jobs = Jobs()
        self._node: Optional[Node] = None
        self.tasks: List[TaskConfig] = []  # in force, without built-in ones
        self._limits = Limits()
        # For what takes no slot, which is answered even if nothing else is.
        self._own_limits = Limits(self._limits.loop_time)
        self._own_limits.slots.limit = sys.maxsize
        self._own_jobs = Jobs()
        self._started = time.monotonic()
        self._views: Dict[Tuple[str, str], ChannelView] = {}
        self._dispatcher = Dispatcher(self.identity, 0, 0)
        self._stop_timeout = 0.0
        self._backends: Dict[str, Tuple[BackendConfig, Backend]] = {}
        self._tasks: Dict[Place, Tuple[TaskConfig, Task]] = {}
        self._retired_backends: Set[Backend] = set()
        self._retired_tasks: Set[Task] = set()
        self._retiring: Set[asyncio.Task[None]] = set()

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
        for number, task in enumerate(
            (*config.tasks, *_built_in_tasks(config)), 1
        ):
            place = task.place
            was = before.get(place)
            if was and was[0] == task and task.backend not in replaced:
                now[place] = before.pop(place)
            else:
                view = self._view(config, place[:2])
                made = self._make_task(
                    config, task, view, was[1] if was else None
                )
                now[place] = task, made
            if number % _BURST == 0:
                await asyncio.sleep(0)  # requests must not wait for thousands
        self._tasks = now
        self.tasks = [*config.tasks]
        routes: Dict[Tuple[str, str], Dict[str, Task]] = {}
        for (backend, channel, name), (_, made) in now.items():
            routes.setdefault((backend, channel), {})[name] = made
        self._dispatcher.set_routes(routes)
        shown: Dict[Tuple[str, str], List[Tuple[TaskConfig, Task]]] = {}
        for task in config.tasks:
            shown.setdefault(task.place[:2], []).append(now[task.place])
        self._views = {
            at: view for at, view in self._views.items() if at in shown
        }
        for at, view in self._views.items():
            view.set_tasks(shown[at])
        self._own_limits.max_request_memory = _OWN_MEMORY * len(shown)
        removed = [task for _, task in before.values()]
        self._retired_tasks.update(removed)
        for left in removed:
            self._in_background(self._retire_task(left))
        return removed

    def _view(self, config: Config, at: Tuple[str, str]) -> ChannelView:
        if at not in self._views:
            self._views[at] = ChannelView(
                at, config.folder, self.identity, self.jobs, self._started
            )
        return self._views[at]

    def _make_task(
        self,
        config: Config,
        task: TaskConfig,
        view: ChannelView,
        before: Optional[Task],
    ) -> Task:
        # Of a built-in task, it need not be among the plugins.
        kind = config.plugins.brokers.get(task.broker, AgentBroker)
        broker = kind(task.broker_options)
        broker.start(view)
        limits, jobs = self._limits, self.jobs
        if not kind.takes_slot:
            limits, jobs = self._own_limits, self._own_jobs
        return Task(task, broker, limits, jobs, before)

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
        registers = (self.jobs, self._own_jobs)
        finished = asyncio.gather(*(jobs.finished() for jobs in registers))
        hurrying = asyncio.ensure_future(hurry.wait())
        events: Set[asyncio.Future[Any]] = {finished, hurrying}
        await asyncio.wait(
            events,
            timeout=self._stop_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        hurrying.cancel()
        for step in (Jobs.stop, Jobs.abort):
            for jobs in registers:
                step(jobs)
            await asyncio.wait({finished}, timeout=END)
            if finished.done():
                return
