"""Agent: one run of the daemon, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Tuple

from ngcp_task_agent import __version__, background
from ngcp_task_agent.config.faults import Fault
from ngcp_task_agent.config.loader import Config, Loader
from ngcp_task_agent.daemon.metrics import MetricsFile, take_snapshot
from ngcp_task_agent.daemon.runtime import Runtime, shortened
from ngcp_task_agent.daemon.systemd import Notifier
from ngcp_task_agent.display import counted
from ngcp_task_agent.errors import CannotReload
from ngcp_task_agent.logs import journal

if TYPE_CHECKING:
    from ngcp_task_agent.management.service import Service

EX_CONFIG = 78  # from sysexits.h: nothing usable is configured

_LONGEST_NAMES = 60  # characters of the names of faulty files, in the status
# As the records of the journal show them.
_OUTCOMES = ("accepted", "done", "error", "rejected", "ignored")


class Agent:
    """Loads the configuration and runs its tasks until a signal stops it."""

    def __init__(self, loader: Loader, notifier: Notifier) -> None:
        self._loader = loader
        self._notifier = notifier
        self._runtime = Runtime()
        self._metrics = MetricsFile(partial(take_snapshot, self._runtime))
        self._service: Optional[Service] = None  # on the bus
        self._reload_lock = asyncio.Lock()
        self._reloads: Set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()  # by a signal, or a bug
        self._hurry = asyncio.Event()  # by a second signal
        self._failed = False
        self._faulty: List[str] = []  # files, as last read

    async def run(self) -> int:
        """Run until a signal stops the agent; return the exit status."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        alive = background.start(self._notifier.keep_alive(self._beat))
        try:
            if not await self._start():
                return EX_CONFIG
            await self._stopping.wait()
            await self._drain()
        finally:
            await background.end(alive)
            # A late signal must not spoil the exit status, and without a
            # handler it would kill the process.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, _ignore)
        return 1 if self._failed else 0

    async def reload(self) -> Tuple[Fault, ...]:
        """Apply the files; return their faults.

        A faulty file does not change what runs.

        :raises CannotReload: when the agent is stopping
        """
        async with self._reload_lock:
            if self._stopping.is_set():
                raise CannotReload("the agent is stopping")
            self._notifier.reloading()
            try:
                config = await self._load()
                await self._apply(config)
            except OSError as error:
                # For example, too many open files: what runs is not affected.
                what = f"the configuration cannot be read: {error.strerror}"
                journal.record(journal.RELOAD_FAULTY, f"not reloaded: {what}")
                raise CannotReload(what) from None
            finally:
                if not self._stopping.is_set():
                    self._report_ready()
            summary = self._runtime.summary()
            if config.faults:
                journal.record(
                    journal.RELOAD_FAULTY,
                    f"reloaded, but {_faults(config)}; {summary}",
                )
            else:
                journal.record(journal.RELOADED, f"reloaded: {summary}")
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
        with contextlib.suppress(CannotReload):
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

    async def _load(self) -> Config:
        # Looking for cycles among thousands of tasks would stop the event
        # loop again and again; loading leaves none.
        gc.disable()
        try:
            config = await asyncio.to_thread(self._loader.load)
        finally:
            gc.enable()
        config.log()
        return config

    async def _start(self) -> bool:
        """Start everything; return False if no backend is usable."""
        async with self._reload_lock:
            config = await self._load()
            if not config.backends:
                folder = self._loader.folder / "backends"
                what = f"no usable backend in {folder}: nothing to run"
                journal.record(journal.NOTHING_TO_RUN, what)
                self._notifier.status(what)
                return False
            await self._apply(config)
        journal.record(
            journal.STARTED,
            f"ngcp-task-agent {__version__} has started: "
            f"{self._runtime.summary()}; {self._runtime.identity()}",
        )
        self._report_ready()
        await self._serve()
        return True

    async def _serve(self) -> None:
        """Be managed over the bus, as soon as it is there."""
        # In a thread: loading takes a while, and requests may arrive.
        await asyncio.to_thread(_load_management)
        from ngcp_task_agent.bus.bus import system_bus
        from ngcp_task_agent.management.service import Service

        self._service = Service(system_bus(), self._runtime, self.reload)
        await self._service.start()

    async def _apply(self, config: Config) -> None:
        await self._runtime.apply(config)
        self._metrics.move(config.agent.metrics_file)
        folder = self._loader.folder
        self._faulty = [
            str(path.relative_to(folder) if folder in path.parents else path)
            for path in sorted({fault.path for fault in config.faults})
        ]

    def _report_ready(self) -> None:
        """Whoever waits for this finds a status that is up to date."""
        self._notifier.status(self._status())
        self._notifier.ready()

    async def _drain(self) -> None:
        runtime = self._runtime
        journal.record(journal.STOPPING, f"stopping: {runtime.summary()}")
        self._notifier.stopping(runtime.longest_drain)
        # Now, although a reload may still be waiting for a server, ...
        await runtime.stop_listening()
        async with self._reload_lock:
            # ... and again for a backend that the reload has started.
            await runtime.stop_listening()
        await runtime.drain(self._hurry)
        await self._metrics.stop()
        if self._service:
            await self._service.stop()
        total = runtime.counters.total
        counts = ", ".join(f"{total[o]} {o}" for o in _OUTCOMES)
        journal.record(journal.STOPPED, f"stopped; since the start {counts}")

    def _beat(self) -> str:
        """Tell others of what has changed; return the status."""
        if self._service:
            self._service.poll()
        return self._status()

    def _status(self) -> str:
        """One line for ``systemctl status``: what is wrong comes first."""
        runtime, parts = self._runtime, []
        if self._faulty:
            number = counted(len(self._faulty), "faulty file")
            names = shortened(", ".join(self._faulty), _LONGEST_NAMES)
            parts.append(f"{number}: {names}")
        parts += [f"{fact} unknown" for fact in runtime.unknown]
        total = runtime.counters.total
        counts = [f"{total[o]} {o}" for o in sorted(_OUTCOMES) if total[o]]
        parts.append(", ".join([runtime.summary(), *counts]))
        return "; ".join(parts)


def _load_management() -> None:
    importlib.import_module("ngcp_task_agent.management.service")


def _ignore() -> None:
    """Ignore a signal: the agent has already stopped."""


def _faults(config: Config) -> str:
    """Summarise the faults of a reload, by what happens to the files."""
    parts = []
    if config.kept:
        they = "keeps its" if config.kept == 1 else "keep their"
        parts.append(
            f"{counted(config.kept, 'file')} {they} last good version"
        )
    if config.left_out:
        they = "is" if config.left_out == 1 else "are"
        parts.append(f"{counted(config.left_out, 'file')} {they} left out")
    number = f"with {counted(len(config.faults), 'fault')}"
    return ": ".join(filter(None, (number, ", ".join(parts))))
