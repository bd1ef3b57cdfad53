"""Channel: what the tasks of one backend and control channel may see."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, Mapping, Tuple

from ngcp_task_agent.brokers.base import JobFacts, TaskFacts
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.requests.jobs import Job, Jobs
from ngcp_task_agent.requests.task import Task

_BURST = 100  # facts to gather in a row


class Channel:
    """The AgentView that brokers get.

    :param where: the name of the backend, and of the control channel
    :param folder: the agent's configuration
    :param identity: returns what the node is now
    :param tasks: returns the tasks of the channel, by name
    :param jobs: those of the whole agent
    :param started: when the agent has started; monotonic
    """

    def __init__(
        self,
        where: Tuple[str, str],
        folder: Path,
        identity: Callable[[], Identity],
        tasks: Callable[[Tuple[str, str]], Mapping[str, Task]],
        jobs: Jobs,
        started: float,
    ) -> None:
        self.folder = folder
        self._where = where
        self._identity = identity
        self._tasks = tasks
        self._jobs = jobs
        self._started = started

    @property
    def uptime(self) -> float:
        return time.monotonic() - self._started

    def node(self) -> Dict[str, Any]:
        return self._identity().described()

    async def tasks(self) -> AsyncIterator[TaskFacts]:
        number = 0
        for task in [*self._tasks(self._where).values()]:
            config, broker = task.config, task.broker
            if not broker.takes_slot:
                continue
            yield TaskFacts(
                config.name,
                config.description,
                config.broker,
                config.data_schema,
                broker.takes_extra_args,
                broker.timeout,
                config.max_running,
                task.running,
                task.queued,
            )
            number += 1
            if number % _BURST == 0:
                await asyncio.sleep(0)

    async def jobs(self) -> AsyncIterator[JobFacts]:
        for number, job in enumerate([*self._jobs], 1):
            if self._shows(job):
                asked = job.request
                yield JobFacts(
                    asked.uuid,
                    asked.task,
                    asked.src,
                    job.state,
                    round(job.began, 3),
                    job.pid,
                )
            if number % _BURST == 0:
                await asyncio.sleep(0)

    async def cancel(self, uuid: str, by: str) -> bool:
        jobs = [
            job
            for job in self._jobs.find(uuid)
            if self._shows(job) and job.work
        ]
        await self._jobs.cancel(jobs, by)
        return bool(jobs)

    def _shows(self, job: Job) -> bool:
        backend, channel, name = job.place
        if (backend, channel) != self._where:
            return False
        # One that is no longer configured may have jobs left.
        task = self._tasks(self._where).get(name)
        return task is None or task.broker.takes_slot
