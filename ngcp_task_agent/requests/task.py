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
from ngcp_task_agent.protocol.pattern import Pattern
from ngcp_task_agent.requests.data_schema import DataSchema
from ngcp_task_agent.requests.reply import Reply
from ngcp_task_agent.requests.slots import Slots

# Rounds of the event loop before the work begins.  They let the backend send
# "accepted" and other requests be accepted first: starting a process takes as
# long as all of that.
_LET_OTHERS = 3


class Task:
    """Runs the requests for one task, some at once, the others queued.

    :param agent_slots: the slots that all tasks share
    :param before: the task that this one replaces; what it still runs counts
    """

    def __init__(
        self,
        config: TaskConfig,
        broker: Broker,
        agent_slots: Slots,
        before: Optional[Task] = None,
    ) -> None:
        self._config = config
        self._broker = broker
        self._agent_slots = agent_slots
        self._slots: Slots = before._slots if before else Slots(0)
        self._slots.limit = config.max_running
        self._allow_src = tuple(map(Pattern, config.allow_src or ()))
        self._data_schema = (
            None
            if config.data_schema is None
            else DataSchema(config.data_schema)
        )
        # asyncio keeps only weak references to its tasks.
        self._jobs: Set[asyncio.Task[None]] = set()
        self._works: Dict[Work, float] = {}  # running, and when each began
        self._admitted = 0
        self._stopping = False
        self.running = 0

    @property
    def oldest(self) -> Optional[Tuple[float, str]]:
        """When its oldest running work began (monotonic), and its name."""
        for began in self._works.values():
            return began, self._config.name
        return None

    def take(self, request: Request, reply: Reply) -> None:
        """Take a request, and answer it."""
        try:
            self._check_source(request)
            if self._data_schema is None:
                # Admit it at once: every round of the loop delays "accepted".
                step = self._run(self._admit(request, reply), reply)
            else:
                step = self._run_checked(self._data_schema, request, reply)
        except Rejected as refusal:
            reply.rejected(str(refusal))
            return
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

    def _check_source(self, request: Request) -> None:
        if self._config.allow_src is not None and not any(
            pattern.matches(request.src) for pattern in self._allow_src
        ):
            raise Rejected(
                f"allow_src: '{request.src}' may not request this task"
            )

    def _admit(self, request: Request, reply: Reply) -> Work:
        try:
            work = self._broker.prepare(request)
        except Rejected:
            raise
        except Exception:
            raise Rejected(reply.bug()) from None
        self._check_room()
        reply.accepted()
        self._admitted += 1
        return work

    async def _run_checked(
        self, schema: DataSchema, request: Request, reply: Reply
    ) -> None:
        try:
            data = self._broker.data(request)
            await schema.check(data, request.size)
            work = self._admit(request, reply)
        except Rejected as refusal:
            reply.rejected(str(refusal))
        except Exception:
            reply.rejected(reply.bug())
        else:
            await self._run(work, reply)

    async def _run(self, work: Work, reply: Reply) -> None:
        try:
            for _ in range(_LET_OTHERS):
                await asyncio.sleep(0)
            async with self._slots, self._agent_slots:
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

    def _check_room(self) -> None:
        """Check that the request can run or wait.

        Counts admitted requests, not running ones: of requests that arrive at
        the same moment, none is running yet.
        """
        if self._stopping:
            raise Rejected("the agent is stopping")
        others = self._agent_slots.taken - self.running
        at_once = min(self._slots.limit, self._agent_slots.limit - others)
        max_queued = self._config.max_queued
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
