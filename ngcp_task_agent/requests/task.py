"""Task: checks policy and limits, and brings each request to its ending."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Dict, Optional, Set, Tuple

from ngcp_task_agent.brokers.base import Broker, Result, Work
from ngcp_task_agent.config.models import TaskConfig
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.requests.limits import Limits
from ngcp_task_agent.requests.policy import Policy
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.slots import Slots


class Task:
    """Runs the requests for one task, some at once, the others queued.

    :param limits: those of the whole agent
    :param before: the task that this one replaces; what it still runs counts
    """

    def __init__(
        self,
        config: TaskConfig,
        broker: Broker,
        limits: Limits,
        before: Optional[Task] = None,
    ) -> None:
        self._policy = Policy(config, broker, limits.loop_time)
        self._name = config.name
        self._max_queued = config.max_queued
        self._limits = limits
        self._slots: Slots = before._slots if before else Slots(0)
        self._slots.limit = config.max_running
        # asyncio keeps only weak references to its tasks.
        self._jobs: Set[asyncio.Task[None]] = set()
        self._works: Dict[Work, float] = {}  # running, and when each began
        self._admitted = 0
        self._stopping = False
        self.running = 0

    @property
    def oldest(self) -> Optional[Tuple[float, str]]:
        """When its oldest running work began (monotonic), and its name."""
        began = next(iter(self._works.values()), None)
        return None if began is None else (began, self._name)

    def take(self, request: Request, reply: Reply) -> None:
        """Take a request, and answer it."""
        try:
            work = self._policy.check(request)
            self._check_room()
            self._limits.check_memory(request.size)
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
        step = self._run(work, request, reply)
        job = asyncio.get_running_loop().create_task(step)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def refuse(self) -> None:
        """Start nothing more; queued requests end at once."""
        self._stopping = True
        self._slots.limit = sys.maxsize

    def end(self) -> None:
        """Ask running work to end."""
        for work in self._works:
            work.stop()

    def cancel(self) -> None:
        """Cancel work that has ignored end()."""
        for job in self._jobs:
            # Not before the first step: the job would then never send an
            # ending.
            asyncio.get_running_loop().call_soon(job.cancel)

    async def finished(self) -> None:
        """Wait until every request taken has ended."""
        while self._jobs:
            await asyncio.wait(set(self._jobs))

    async def _run(self, work: Work, request: Request, reply: Reply) -> None:
        try:
            async with self._slots, self._limits.slots:
                self.running += 1
                try:
                    # Hold the slot until a large answer is sent, else the
                    # answers of fast tasks would fill the memory.
                    await reply.ended(await self._result(work, reply))
                finally:
                    self.running -= 1
        except asyncio.CancelledError:
            if not reply.has_ended:
                await reply.ended(Result(error="the agent has ended the task"))
            raise
        finally:
            self._admitted -= 1
            self._limits.release(request.size)

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
            raise Rejected(
                f"busy: {self.running} running and "
                f"{self._admitted - self.running} waiting, of at most "
                f"{self._slots.limit} and {max_queued}"
            )

    async def _result(self, work: Work, reply: Reply) -> Result:
        """Do the work; return a result even if it raises."""
        if self._stopping:
            return Result(error="the agent is stopping; nothing was run")
        self._works[work] = time.monotonic()
        try:
            result = await work.run()
            if not isinstance(result, Result):
                raise TypeError(f"the work returned {result!r}")
            return result
        except Exception:
            return Result(error=reply.bug())
        finally:
            del self._works[work]
