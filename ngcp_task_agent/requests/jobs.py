"""Jobs: the register of what waits and runs, of all tasks."""

from __future__ import annotations

import asyncio
import time
from typing import Dict, Iterator, List, Optional, Sequence

from ngcp_task_agent.brokers.base import Result, Work
from ngcp_task_agent.config.models import Place
from ngcp_task_agent.errors import CannotCancel
from ngcp_task_agent.protocol.messages import Request

# Seconds that cancelled work has to end by itself, and then once its runner
# is cancelled.  A command needs up to 8: see process/run.py.
GRACE, END = 10.0, 5.0


class Job:
    """An accepted request that waits for its turn, or runs.

    :ivar place: the task's backend, control channel and name
    :ivar work: None once it has ended, while its answer is being sent
    :ivar runner: does the work and sends the ending
    :ivar called_off: why it was ended early, such as ``cancelled by root``;
        empty if it was not
    """

    __slots__ = (
        "_timer",
        "called_off",
        "is_running",
        "place",
        "request",
        "runner",
        "since",
        "work",
    )

    runner: asyncio.Task[None]

    def __init__(self, request: Request, place: Place, work: Work) -> None:
        self.request = request
        self.place = place
        self.work: Optional[Work] = work
        self.is_running = False
        # When it was accepted, and then when it began to run; monotonic.
        self.since = time.monotonic()
        self.called_off = ""
        self._timer: Optional[asyncio.TimerHandle] = None

    @property
    def state(self) -> str:
        return "running" if self.is_running else "queued"

    @property
    def began(self) -> float:
        """Since when it has been in this state; unix time."""
        return time.time() - self.age

    @property
    def age(self) -> float:
        """For how long it has been in this state, in seconds."""
        return time.monotonic() - self.since

    @property
    def pid(self) -> Optional[int]:
        return self.work.pid if self.work else None

    async def run(self) -> Result:
        """Do the work.

        :raises Exception: for a bug of the broker
        """
        assert self.work, "run() is called once"
        self.is_running, self.since = True, time.monotonic()
        self.forget_limit()
        try:
            result = await self.work.run()
        finally:
            self.work = None
        if not isinstance(result, Result):
            raise TypeError(f"the work returned {result!r}")
        if self.called_off and result.error and not result.by_itself:
            return Result(
                data=result.data,
                error=self.called_off,
                exit_status=result.exit_status,
            )
        return result

    def cancel(self, by: str) -> None:
        """Ask it to end soon.  Work that has ended keeps its own ending."""
        if not self.work or self.called_off:
            return
        if self.is_running:
            self.called_off = f"cancelled by {by}"
            self.work.stop()
        else:
            self.called_off = f"cancelled by {by}; nothing was run"
            self._soon(self._leave_queue)

    def limit_wait(self, seconds: float) -> None:
        """End it if it still waits for its turn then; called once."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._expire, seconds)

    def forget_limit(self) -> None:
        """It no longer waits: the timer would keep it in memory."""
        if self._timer:
            self._timer.cancel()

    def _expire(self, seconds: float) -> None:
        if not self.called_off:
            self.called_off = f"waited more than {seconds:g} s"
            self._soon(self._leave_queue)

    def _leave_queue(self) -> None:
        if not self.is_running:
            self.runner.cancel()

    def abort(self) -> None:
        """Cancel the runner, for work that ignores stop()."""
        self._soon(self.runner.cancel)

    def _soon(self, step: object) -> None:
        # Not before the runner's first step: it would never send an ending.
        asyncio.get_running_loop().call_soon(step)  # type: ignore[arg-type]


class Jobs:
    """All jobs of the agent, in the order in which they were accepted."""

    def __init__(self) -> None:
        # asyncio keeps only weak references to its tasks, the runners.
        self._jobs: Dict[Job, None] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs[job] = None

    def remove(self, job: Job) -> None:
        job.forget_limit()
        del self._jobs[job]

    @property
    def oldest(self) -> Optional[Job]:
        """The job that has been running for longest."""
        running = (job for job in self._jobs if job.is_running)
        return min(running, key=lambda job: job.since, default=None)

    def find(self, uuid: str) -> List[Job]:
        """Return the jobs of a request's uuid; others may share it.

        :param uuid: 32 hexadecimal digits of either case; hyphens are ignored
        """
        wanted = _digits(uuid)
        return [j for j in self._jobs if _digits(j.request.uuid) == wanted]

    async def cancel(self, jobs: Sequence[Job], by: str) -> None:
        """Cancel jobs, and wait until they have ended.

        :param by: who wants it, for the client
        :raises CannotCancel: when one does not end within GRACE + END
        """
        for job in jobs:
            job.cancel(by)
        left = {job.runner for job in jobs}
        if left:
            _, left = await asyncio.wait(left, timeout=GRACE)
        ignoring = [job for job in jobs if job.runner in left and job.work]
        for job in ignoring:
            job.abort()
        if ignoring:
            await asyncio.wait({job.runner for job in ignoring}, timeout=END)
        for job in ignoring:
            if job.work:
                raise CannotCancel(
                    f"the work for request '{job.request.uuid}' does not "
                    "end: its broker ignores that it was cancelled"
                )

    def stop(self) -> None:
        """Ask all running work to end."""
        for job in self._jobs:
            if job.is_running and job.work:
                job.work.stop()

    def abort(self) -> None:
        """Cancel what has ignored stop(), even while an answer is sent."""
        for job in self._jobs:
            job.abort()

    async def finished(self) -> None:
        """Wait until all have ended."""
        while self._jobs:
            await asyncio.wait({job.runner for job in self._jobs})


def _digits(uuid: str) -> str:
    return uuid.replace("-", "").lower()
