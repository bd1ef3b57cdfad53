"""ChannelView: what the brokers of a control channel see of the agent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

from ngcp_task_agent import __version__
from ngcp_task_agent.brokers.base import JobView, TaskView
from ngcp_task_agent.config.models import TaskConfig
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.jobs import Job, Jobs
from ngcp_task_agent.requests.task import Task

# To look at all jobs takes the event loop's time.  Questions get little of it:
# what was counted is good for this many times as long as that has taken, and
# after a search in vain, the next one waits as long.
_KEEP = 10
_LONG = 0.001  # seconds of a search that no other request notices


class ChannelView:
    """An AgentView of one backend and control channel.

    :param jobs: those of the whole agent
    :param began: when the agent started; monotonic
    """

    version = __version__

    def __init__(
        self,
        place: Tuple[str, str],
        folder: Path,
        identity: Callable[[], Identity],
        jobs: Jobs,
        began: float,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._backend, self._channel = place
        self._jobs = jobs
        self._began = began
        self._tasks: Sequence[Tuple[TaskConfig, Task]] = ()
        # Running and queued jobs by task, and until when they count.
        self._counts: Dict[str, List[int]] = {}
        self._count_again = 0.0
        self._searching = asyncio.Lock()
        self.generation = 0

    def set_tasks(self, tasks: Sequence[Tuple[TaskConfig, Task]]) -> None:
        """Show other tasks."""
        self._tasks = tasks
        self.generation += 1

    @property
    def uptime(self) -> float:
        return time.monotonic() - self._began

    def counts(self) -> Tuple[int, int]:
        counts = [*self._count().values()]
        return sum(c[0] for c in counts), sum(c[1] for c in counts)

    def tasks(self) -> Iterator[TaskView]:
        counts = self._count()
        for config, task in self._tasks:
            broker = task.broker
            yield TaskView(
                config.name,
                config.description,
                config.broker,
                config.data_schema,
                broker.takes_extra_args,
                broker.timeout,
                config.max_running,
                *counts.get(config.name, (0, 0)),
            )

    def jobs(self) -> Iterator[JobView]:
        for job in self._own([*self._jobs]):
            request = job.request
            yield JobView(
                request.uuid,
                job.place[2],
                request.src,
                job.state,
                job.began,
                job.pid,
            )

    async def cancel(self, uuid: str, by: str) -> int:
        async with self._searching:
            begin = time.monotonic()
            jobs = [*self._own(self._jobs.find(uuid))]
            took = time.monotonic() - begin
            if not jobs and took > _LONG:
                await asyncio.sleep(_KEEP * took)
        if not await self._jobs.cancel(jobs, by):
            raise TimeoutError
        return sum(job.was_cancelled for job in jobs)

    def _own(self, jobs: Sequence[Job]) -> Iterator[Job]:
        for job in jobs:
            backend, channel, _ = job.place
            if backend == self._backend and channel == self._channel:
                yield job

    def _count(self) -> Dict[str, List[int]]:
        begin = time.monotonic()
        if begin >= self._count_again:
            counts: Dict[str, List[int]] = {}
            for job in self._own([*self._jobs]):
                count = counts.setdefault(job.place[2], [0, 0])
                count[not job.is_running] += 1
            self._counts = counts
            end = time.monotonic()
            self._count_again = end + _KEEP * (end - begin)
        return self._counts
