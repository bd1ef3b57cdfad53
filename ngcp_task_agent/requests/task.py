"""Task: checks policy and limits, and brings each request to its ending."""

from __future__ import annotations

import asyncio
import sys
from typing import Optional

from ngcp_task_agent.brokers.base import Broker, Result
from ngcp_task_agent.config.models import MAX_WAIT, TaskConfig
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
        self.config = config
        self.broker = broker
        self._policy = Policy(config, broker, limits.loop_time)
        self._limits = limits
        # Those of all tasks together.
        self._agent_slots = (
            limits.slots if broker.takes_slot else Slots(sys.maxsize)
        )
        self._slots: Slots = before._slots if before else Slots(0)
        self._slots.limit = config.max_running
        self._jobs = jobs
        self._admitted = 0
        self._idle: Optional[asyncio.Event] = None  # for finished()
        self._stopping = False
        self.running = 0

    @property
    def queued(self) -> int:
        """How many requests wait for their turn."""
        return self._admitted - self.running

    def take(self, request: Request, reply: Reply) -> None:
        """Take a request, and answer it."""
        try:
            longest = self._longest_wait(request)
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
        job = Job(request, self.config.place, work)
        step = self._run(job, reply)
        job.runner = asyncio.get_running_loop().create_task(step)
        if longest:
            job.limit_wait(longest)
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

    async def _run(self, job: Job, reply: Reply) -> None:
        try:
            async with self._slots, self._agent_slots:
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
        agent = self._agent_slots
        others = agent.taken - self.running
        at_once = min(self._slots.limit, agent.limit - others)
        max_queued = self.config.max_queued
        if self._admitted >= max(at_once, self.running) + max_queued:
            raise Busy(
                f"busy: {self.running} running and "
                f"{self.queued} waiting, of at most "
                f"{self._slots.limit} and {max_queued}"
            )

    def _longest_wait(self, request: Request) -> float:
        """Return the seconds that a request may wait; 0 without end.

        :raises Rejected: when its ``options`` do not say it rightly
        """
        longest = self.config.max_wait
        expires = request.options.get("expires")
        if expires is None:
            return longest
        # No bool: True is no number of seconds.
        if type(expires) not in (int, float) or not 0 < expires <= MAX_WAIT:
            raise Rejected(
                "options.expires must be a number of seconds greater than 0, "
                f"up to {MAX_WAIT}"
            )
        return float(min(longest or MAX_WAIT, expires))

    async def _result(self, job: Job, reply: Reply) -> Result:
        """Do the work; return a result even if it raises."""
        if job.called_off:
            return _aborted(job)
        if self._stopping:
            return Result(error="the agent is stopping; nothing was run")
        try:
            return await job.run()
        except Exception:
            return Result(error=reply.bug())


def _aborted(job: Job) -> Result:
    """Return the result of a job that has none of its own."""
    if job.called_off:
        return Result(error=job.called_off)
    return Result(error="the agent has ended the task")
