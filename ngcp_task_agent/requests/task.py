"""Task: checks policy and limits, and brings each request to its ending."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Optional

from ngcp_task_agent.brokers.base import Broker, Result
from ngcp_task_agent.config.models import LONGEST_WAIT, TaskConfig
from ngcp_task_agent.errors import Busy, Rejected
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.requests.jobs import Job, Jobs
from ngcp_task_agent.requests.limits import Limits
from ngcp_task_agent.requests.policy import Policy
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.slots import Slots


class Task:
    """Runs the requests for one task, some at once, the others queued.

    :param limits: those of the whole agent
    :param jobs: those of the whole agent
    :param before: the task that this one replaces; what it still runs counts
    """

    def __init__(
        self,
        config: TaskConfig,
        broker: Broker,
        limits: Limits,
        jobs: Jobs,
        before: Optional[Task] = None,
    ) -> None:
        self._policy = Policy(config, broker, limits.loop_time)
        self._place = config.place
        self._max_queued = config.max_queued
        self._live_output = config.live_output
        self._max_wait = config.max_wait
        self._limits = limits
        self._slots: Slots = before._slots if before else Slots(0)
        self._slots.limit = config.max_running
        self._jobs = jobs
        self._admitted = 0
        self._idle: Optional[asyncio.Event] = None  # for finished()
        self._stopping = False
        self.running = 0

    def take(self, request: Request, reply: Reply) -> None:
        """Take a request, and answer it."""
        max_wait = self._max_wait
        try:
            options = request.options
            if "expires" in options:
                max_wait = _sooner(max_wait, options["expires"])
            work = self._policy.check(request)
            self._check_room()
            self._limits.check_memory(request.size)
        except Busy as refusal:
            reply.rejected(str(refusal), "busy")
            return
        except Rejected as refusal:
            reply.rejected(str(refusal))
            return
        except Exception:
            reply.rejected(reply.bug())
            return
        # At once: every round of the loop delays "accepted".
        reply.accepted()
        self._admitted += 1
        self._limits.hold(request.size)
        request.forget()
        # It begins in the next round of the loop, after "accepted" has left.
        job = Job(request, self._place, work)
        step = self._run(job, reply, max_wait)
        job.runner = asyncio.get_running_loop().create_task(step)
        self._jobs.add(job)

    def refuse(self) -> None:
        """Start nothing more; queued requests end at once."""
        self._stopping = True
        self._slots.limit = sys.maxsize

    async def finished(self) -> None:
        """Wait until every request taken has ended."""
        while self._admitted:
            self._idle = self._idle or asyncio.Event()
            self._idle.clear()
            await self._idle.wait()

    @property
    def broker(self) -> Broker:
        return self._policy.broker

    async def _run(self, job: Job, reply: Reply, max_wait: float) -> None:
        expiry: Optional[asyncio.TimerHandle] = None
        if max_wait and not (
            self._slots.is_free and self._limits.slots.is_free
        ):
            expiry = asyncio.get_running_loop().call_at(
                job.since + max_wait, job.expire, max_wait
            )
        try:
            async with self._slots, self._limits.slots:
                if expiry:
                    expiry.cancel()
                self.running += 1
                try:
                    # Hold the slot until a large answer is sent, else the
                    # answers of fast tasks would fill the memory.
                    await reply.ended(await self._result(job, reply))
                finally:
                    self.running -= 1
        except asyncio.CancelledError:
            if not reply.has_ended:
                await reply.ended(_aborted(job))
            raise
        finally:
            if expiry:
                expiry.cancel()  # else it would keep the request
            self._limits.release(job.request.size)
            self._jobs.remove(job)
            self._admitted -= 1
            if self._idle and not self._admitted:
                self._idle.set()

    def _check_room(self) -> None:
        """Check that the request can run or wait.

        Counts admitted requests, not running ones: of requests that arrive at
        the same moment, none is running yet.
        """
        if self._stopping:
            raise Rejected("the agent is stopping")
        agent = self._limits.slots
        others = agent.taken - self.running
        at_once = min(self._slots.limit, agent.limit - others)
        max_queued = self._max_queued
        if self._admitted >= max(at_once, self.running) + max_queued:
            raise Busy(
                f"busy: {self.running} running and "
                f"{self._admitted - self.running} waiting, of at most "
                f"{self._slots.limit} and {max_queued}"
            )

    async def _result(self, job: Job, reply: Reply) -> Result:
        """Do the work; return a result even if it raises."""
        if job.cancelled_by:
            return _aborted(job)
        if self._stopping:
            return Result(error="the agent is stopping; nothing was run")
        try:
            live = reply.live_output() if self._live_output else None
            if live and job.work:
                job.work.on_output(live)
            return await job.run()
        except Exception:
            return Result(error=reply.bug())


def _sooner(max_wait: float, expires: Any) -> float:
    """Return the shorter time to wait, in seconds; 0 is without end.

    :raises Rejected: for what is no such time
    """
    is_number = isinstance(expires, (int, float))
    if not is_number or isinstance(expires, bool) or expires <= 0:
        raise Rejected(
            "options.expires must be a number of seconds greater than 0"
        )
    return float(min(expires, max_wait or LONGEST_WAIT))


def _aborted(job: Job) -> Result:
    """Return the result of a job that has none of its own."""
    by = job.cancelled_by
    if job.expired:
        return Result(error=f"waited more than {job.expired:g} s")
    if not by:
        return Result(error="the agent has ended the task")
    if job.is_running:
        return Result(error=f"cancelled by {by}")
    return Result(error=f"cancelled by {by}; nothing was run")
