"""Agent: starts, reloads and drains what the configuration names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import Any, Collection, Coroutine, Dict, List, Optional, Set, Tuple

from ngcp_task_agent import __version__, background
from ngcp_task_agent.backends.base import LEAVING, Backend
from ngcp_task_agent.config.loader import Config, Loader
from ngcp_task_agent.config.models import BackendConfig, TaskConfig
from ngcp_task_agent.config.yaml_file import Fault
from ngcp_task_agent.daemon import control
from ngcp_task_agent.daemon.systemd import Notifier
from ngcp_task_agent.errors import ControlError
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node.identity import Identity
from ngcp_task_agent.node.node import Node
from ngcp_task_agent.protocol.pattern import Pattern
from ngcp_task_agent.requests.dispatch import Dispatcher
from ngcp_task_agent.requests.slots import Slots
from ngcp_task_agent.requests.task import Task

EX_CONFIG = 78  # of sysexits.h: nothing is configured that could run

_CONNECT = 30.0  # seconds for a backend to begin to listen
_FLUSH = 5.0  # seconds to deliver the last answers; more while they leave
_RETIRED_FLUSH = 60.0  # the same, of a backend that a reload has replaced
_END = 10.0  # seconds that ending what still runs may take, twice

# A task's place: the backend's name, the control channel, its own name.
_Place = Tuple[str, str, str]


class Agent:
    """One run of the daemon, from its start to its end.

    :param loader: reads the configuration
    :param notifier: tells systemd
    """

    def __init__(self, loader: Loader, notifier: Notifier) -> None:
        self._loader = loader
        self._notifier = notifier
        self._node: Optional[Node] = None
        self._slots = Slots(0)
        self._dispatcher = Dispatcher(self._identity, 0, 0)
        self._stop_timeout = 0.0
        self._backends: Dict[str, Tuple[BackendConfig, Backend]] = {}
        self._tasks: Dict[_Place, Tuple[TaskConfig, Task]] = {}
        # What a reload has replaced, until its requests have ended.
        self._retired: Set[Task] = set()
        self._retiring: Set[asyncio.Task[None]] = set()
        self._replaced: Set[Backend] = set()
        self._control: Optional[control.Control] = None
        self._reload_lock = asyncio.Lock()
        self._reloads: Set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failed = False

    async def run(self) -> int:
        """Work until a signal asks for the end; the exit status."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        alive = background.start(self._notifier.keep_alive(self._status))
        try:
            if not await self._start():
                return EX_CONFIG
            await self._stopping.wait()
            await self._drain()
        finally:
            await background.end(alive)
            # A signal that comes late must not spoil the exit status.  To
            # remove its handler would let it end the process for a moment.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, _ignore)
        return 1 if self._failed else 0

    async def reload(self) -> Tuple[Fault, ...]:
        """Put the files' configuration in force; returns their faults.

        A file with a fault does not change what runs.

        :raises ControlError: when the agent is stopping
        """
        async with self._reload_lock:
            if self._stopping.is_set():
                raise ControlError("the agent is stopping")
            self._notifier.reloading()
            try:
                config = await self._load()
                await self._apply(config)
            except OSError as error:
                # Such as too many open files: better what was than nothing.
                what = f"the configuration cannot be read: {error.strerror}"
                journal.record(journal.RELOAD_FAULTY, f"not reloaded: {what}")
                raise ControlError(what) from None
            finally:
                if not self._stopping.is_set():
                    self._notifier.ready()
            if config.faults:
                journal.record(
                    journal.RELOAD_FAULTY,
                    f"reloaded, but {_faults(config)}; {self._summary()}",
                )
            else:
                journal.record(
                    journal.RELOADED, f"reloaded: {self._summary()}"
                )
            return config.faults

    def _on_stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _on_reload(self) -> None:
        task = background.start(self._reload_by_signal())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_by_signal(self) -> None:
        with contextlib.suppress(ControlError):
            await self.reload()

    def _on_bug(
        self, loop: asyncio.AbstractEventLoop, context: Dict[str, Any]
    ) -> None:
        journal.record(
            journal.BUG,
            f"a bug: {context['message']}",
            bug=context.get("exception"),
        )
        if context.get(background.FATAL):
            self._failed = True
            self._stopping.set()

    def _identity(self) -> Identity:
        assert self._node, "nothing arrives before the node is known"
        return self._node.identity()

    async def _load(self) -> Config:
        config = await asyncio.to_thread(self._loader.load)
        config.tell()
        return config

    async def _start(self) -> bool:
        """Start all; whether there is anything that could run."""
        async with self._reload_lock:
            config = await self._load()
            if not config.backends:
                journal.record(
                    journal.NOTHING_TO_RUN,
                    f"no usable backend in {self._loader.folder / 'backends'}"
                    ": nothing to run",
                )
                return False
            await self._apply(config)
        if "RUNTIME_DIRECTORY" in os.environ:
            self._control = control.Control(control.path(), self.reload)
            await self._control.start()
        journal.record(
            journal.STARTED,
            f"ngcp-task-agent {__version__} has started: {self._summary()}; "
            f"{self._identity()}",
        )
        self._notifier.ready()
        return True

    async def _apply(self, config: Config) -> None:
        """Make what runs what the configuration says."""
        await self._set_node(config)
        self._slots.limit = config.agent.max_running
        self._stop_timeout = config.agent.stop_timeout
        self._dispatcher.max_request = config.agent.max_request
        self._dispatcher.max_response = config.agent.max_response
        replaced = {
            name
            for name, (was, _) in self._backends.items()
            if config.backends.get(name) != was
        }
        leaving = self._set_tasks(config, replaced)
        self._set_routes()
        await asyncio.gather(
            *(self._retire(name, leaving) for name in replaced)
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

    async def _set_node(self, config: Config) -> None:
        before = self._node
        node = await asyncio.to_thread(Node, config.agent.node)
        await node.start()
        self._node = node
        if before:
            await before.stop()

    def _set_tasks(self, config: Config, replaced: Set[str]) -> List[Task]:
        """Keep the tasks that stay, make the others; returns what leaves."""
        before, now = dict(self._tasks), {}
        for task in config.tasks:
            place = (task.backend, task.channel, task.name)
            was = before.get(place)
            if was and was[0] == task and task.backend not in replaced:
                now[place] = before.pop(place)
            else:
                made = self._make_task(config, task, was[1] if was else None)
                now[place] = task, made
        self._tasks = now
        leaving = [task for _, task in before.values()]
        for left in leaving:
            self._retired.add(left)
            self._in_background(self._forget(left))
        return leaving

    def _make_task(
        self, config: Config, task: TaskConfig, before: Optional[Task]
    ) -> Task:
        return Task(
            name=task.name,
            broker=config.plugins.brokers[task.broker](task.broker_options),
            agent_slots=self._slots,
            max_running=task.max_running,
            max_queued=task.max_queued,
            allow_src=(
                None
                if task.allow_src is None
                else tuple(map(Pattern, task.allow_src))
            ),
            data_schema=task.data_schema,
            before=before,
        )

    def _set_routes(self) -> None:
        routes: Dict[Tuple[str, str], Dict[str, Task]] = {}
        for (backend, channel, name), (_, task) in self._tasks.items():
            routes.setdefault((backend, channel), {})[name] = task
        self._dispatcher.set_routes(routes)

    async def _set_backend(
        self, config: Config, name: str, channels: frozenset[str]
    ) -> None:
        if name in self._backends:
            backend = self._backends[name][1]
            await self._in_time(name, backend.listen(channels))
            return
        settings = config.backends[name]
        kind = config.plugins.backends[settings.type]
        backend = kind(name, settings.options, self._dispatcher.receive)
        self._backends[name] = settings, backend
        await self._in_time(name, backend.start(channels))

    async def _in_time(
        self, name: str, step: Coroutine[Any, Any, None]
    ) -> None:
        """Hold a backend to its promise that this is bounded in time."""
        try:
            await asyncio.wait_for(step, _CONNECT)
        except asyncio.TimeoutError:
            journal.record(
                journal.BACKEND_DOWN,
                f"backend {name}: it is not ready after {_CONNECT:.0f} s",
                backend=name,
            )

    async def _retire(self, name: str, leaving: List[Task]) -> None:
        """Listen no longer; end when the last answer is delivered."""
        _, backend = self._backends.pop(name)
        await backend.stop_listening()
        self._in_background(self._stop_backend(backend, leaving))

    async def _stop_backend(self, backend: Backend, after: List[Task]) -> None:
        self._replaced.add(backend)
        for task in after:
            await task.finished()
        await backend.stop(_RETIRED_FLUSH)
        self._replaced.discard(backend)

    async def _forget(self, task: Task) -> None:
        await task.finished()
        self._retired.discard(task)

    def _in_background(self, coroutine: Any) -> None:
        task = background.start(coroutine)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _drain(self) -> None:
        """Take nothing more, end what runs, deliver the last answers."""
        journal.record(journal.STOPPING, f"stopping: {self._summary()}")
        self._notifier.stopping(
            self._stop_timeout + 2 * _END + (LEAVING + 1) * _FLUSH
        )
        # At once, though a reload may still be waiting for a server.
        stopped = await self._stop_listening(())
        async with self._reload_lock:
            await self._stop_listening(stopped)
        backends = [backend for _, backend in self._backends.values()]
        for backend in (*backends, *self._replaced):
            backend.hold_nobody()
        await self._end_tasks()
        # Also those whose own end is still waiting for their answers.
        ending = (*backends, *self._replaced)
        await asyncio.gather(*(b.stop(_FLUSH) for b in ending))
        if self._retiring:
            await asyncio.wait(set(self._retiring), timeout=_FLUSH)
        if self._control:
            await self._control.stop()
        if self._node:
            await self._node.stop()
        counts = self._dispatcher.counts
        journal.record(
            journal.STOPPED,
            "stopped; since the start "
            + ", ".join(
                f"{counts[status]} {status}"
                for status in (
                    "accepted",
                    "done",
                    "error",
                    "rejected",
                    "ignored",
                )
            ),
        )

    async def _stop_listening(self, but: Collection[Backend]) -> Set[Backend]:
        backends = {b for _, b in self._backends.values()}.difference(but)
        await asyncio.gather(*(b.stop_listening() for b in backends))
        return backends

    async def _end_tasks(self) -> None:
        tasks = {task for _, task in self._tasks.values()} | self._retired
        self._slots.limit = sys.maxsize
        for task in tasks:
            task.refuse()
        finished = asyncio.gather(*(task.finished() for task in tasks))
        hurry = asyncio.ensure_future(self._hurry.wait())
        events: List[asyncio.Future[Any]] = [finished, hurry]
        await asyncio.wait(
            events,
            timeout=self._stop_timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        hurry.cancel()
        for step in (Task.end, Task.cancel):
            for task in tasks:
                step(task)
            await asyncio.wait({finished}, timeout=_END)
            if finished.done():
                return

    def _status(self) -> str:
        """One line for ``systemctl status``."""
        counts = self._dispatcher.counts
        parts = [self._summary()]
        parts += [f"{counts[key]} {key}" for key in sorted(counts)]
        return ", ".join(parts)

    def _summary(self) -> str:
        backends = sorted(self._backends.items())
        parts = [f"{name}: {b.status}" for name, (_, b) in backends]
        parts.append(counted(len(self._tasks), "task"))
        parts.append(f"{self._slots.taken} running")
        return ", ".join(parts)


def _ignore() -> None:
    """Nothing is left that a signal could change."""


def counted(number: int, noun: str) -> str:
    """A number of things, such as ``1 task`` and ``2 tasks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _faults(config: Config) -> str:
    """How many faults a reload has found, and what becomes of their files."""
    parts = []
    if config.kept:
        they = "keeps what it" if config.kept == 1 else "keep what they"
        parts.append(f"{counted(config.kept, 'file')} {they} said before")
    if config.left_out:
        they = "is" if config.left_out == 1 else "are"
        parts.append(f"{counted(config.left_out, 'file')} {they} left out")
    number = f"with {counted(len(config.faults), 'fault')}"
    return ": ".join(filter(None, (number, ", ".join(parts))))
