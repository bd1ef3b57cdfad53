"""UnitJobs: has systemd do something with a unit, and waits for the result."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, Dict, Set, Tuple

from ngcp_task_agent.brokers.systemd import pid1
from ngcp_task_agent.bus.bus import system_bus
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusAway, BusError

if TYPE_CHECKING:
    from dbus_fast.message import Message

#: The result of a job that ended while the bus was away.
UNSEEN = ""

_JOB = f"{pid1.NAME}.Job"
_Begun = Tuple[str, "asyncio.Future[str]"]  # its path, and its result


class UnitJobs(pid1.Listener):
    """The jobs that requests wait for, by their paths on the bus.

    Equal requests share a job.  A job can end before systemd answers the call
    that has begun it.
    """

    signals = (
        f"interface='{pid1.MANAGER}',member='JobRemoved',path='{pid1.PATH}'"
    )

    def __init__(self) -> None:
        super().__init__()
        self._waiting: Dict[str, Set[asyncio.Future[str]]] = {}
        self._calls = 0  # without an answer so far
        self._early: Dict[str, str] = {}  # results seen during these

    async def run(self, member: str, unit: str) -> str:
        """Have systemd do a job; return its result.

        Cancelling this cancels the job, unless another one waits for it.

        :param member: of the manager, such as ``StartUnit``
        :raises BusError: when systemd refuses, or does not answer
        :raises BusAway: when there is no connection
        """
        beginning = asyncio.ensure_future(self._begin(member, unit))
        try:
            path, result = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            self.in_background(self._drop(beginning))
            raise
        try:
            return await result
        finally:
            if not result.done() or result.cancelled():
                self.in_background(self._leave(path, result))

    async def resume(self, connection: Connection) -> None:
        for path in list(self._waiting):
            try:
                await connection.call(
                    pid1.NAME, path, pid1.PROPERTIES, "Get", "ss", _JOB, "Id"
                )
            except BusError as error:
                if error.name != pid1.NO_SUCH_OBJECT:
                    return  # systemd is away, or busy
                self._end(path, UNSEEN)

    def take(self, message: Message) -> bool:
        if message.member != "JobRemoved":
            return super().take(message)
        _, path, _, result = message.body
        if self._calls:
            self._early[path] = result
        self._end(path, result)
        return True

    def _end(self, path: str, result: str) -> None:
        for waiter in self._waiting.pop(path, set()):
            if not waiter.done():
                waiter.set_result(result)

    async def _begin(self, member: str, unit: str) -> _Begun:
        self._calls += 1
        try:
            (path,) = await pid1.call(member, "ss", unit, "replace")
            result = asyncio.get_running_loop().create_future()
            if path in self._early:
                result.set_result(self._early[path])
            else:
                self._waiting.setdefault(path, set()).add(result)
            return path, result
        finally:
            self._calls -= 1
            if not self._calls:
                self._early.clear()

    async def _drop(self, beginning: asyncio.Future[_Begun]) -> None:
        with contextlib.suppress(BusAway, BusError):
            await self._leave(*await beginning)

    async def _leave(self, path: str, result: asyncio.Future[str]) -> None:
        """Cancel a job unless another request waits for it."""
        waiting = self._waiting.get(path, set())
        waiting.discard(result)
        if waiting or path not in self._waiting:
            return
        del self._waiting[path]
        with contextlib.suppress(BusAway, BusError):
            await system_bus().call(pid1.NAME, path, _JOB, "Cancel")


_jobs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, UnitJobs] = (
    weakref.WeakKeyDictionary()
)


def unit_jobs() -> UnitJobs:
    """Return the jobs that the event loop waits for."""
    loop = asyncio.get_running_loop()
    found = _jobs.get(loop)
    if not found:
        found = _jobs[loop] = UnitJobs()
    return found
