"""RunningAgent: asks the agent that owns the name on the bus."""

from __future__ import annotations

import asyncio
from typing import Any, List, Optional, Tuple

from ngcp_task_agent.bus.connection import CALL_WITHIN, Connection
from ngcp_task_agent.errors import (
    AgentError,
    BusAway,
    BusError,
    NotAllowed,
)
from ngcp_task_agent.management import interface
from ngcp_task_agent.management.interface import (
    AgentState,
    BackendState,
    Counters,
    JobState,
    TaskState,
)

_LONGEST_UUID = 100  # characters, more than any has
# While strangers flood the agent with calls, it may refuse those of a new
# connection: it does not know yet whose it is.
TRIES, RETRY = 50, 0.1  # attempts, and seconds between them

_PROPERTIES = "org.freedesktop.DBus.Properties"
_NO_OWNER = "org.freedesktop.DBus.Error.NameHasNoOwner"
_NOBODY_THERE = (_NO_OWNER, "org.freedesktop.DBus.Error.ServiceUnknown")


class RunningAgent:
    """``async with RunningAgent() as agent: await agent.jobs()``.

    Everything raises BusAway if there is no bus or no agent on it, NotAllowed
    if the agent refuses, and BusError for what else it answers.

    :param address: of the bus; the system's, if None
    """

    def __init__(self, address: Optional[str] = None) -> None:
        self._address = address

    async def __aenter__(self) -> RunningAgent:
        self._connection = await Connection.open(address=self._address)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connection.close()

    async def pid(self) -> int:
        """Return the process that owns the name."""
        try:
            (pid,) = await self._connection.call_bus(
                "GetConnectionUnixProcessID", "s", interface.NAME
            )
        except BusError as error:
            raise _meant(error) from None
        return int(pid)

    async def reload(self) -> List[str]:
        """Make it reload; return the faults, when the rest is in force."""
        try:
            await self._call("Reload", within=interface.RELOAD_WITHIN)
        except BusError as error:
            if error.name != interface.FAULTS:
                raise
            return str(error).splitlines()
        return []

    async def tasks(self) -> Tuple[TaskState, ...]:
        (body,) = await self._call("ListTasks")
        return interface.rows(TaskState, body)

    async def jobs(self) -> Tuple[JobState, ...]:
        (body,) = await self._call("ListJobs")
        return interface.rows(JobState, body)

    async def cancel(self, uuid: str) -> bool:
        """End a job; return False if there is none of that uuid."""
        if len(uuid) > _LONGEST_UUID:
            return False  # the agent does not answer large calls
        try:
            await self._call(
                "Cancel", "s", uuid, within=interface.CANCEL_WITHIN
            )
        except BusError as error:
            if error.name != interface.NO_SUCH_JOB:
                raise
            return False
        return True

    async def state(self) -> AgentState:
        (found,) = await self._call(
            "GetAll", "s", interface.NAME, of=_PROPERTIES
        )
        values = {name: variant.value for name, variant in found.items()}
        totals, tasks = values["Counters"]
        return AgentState(
            values["Version"],
            interface.plain_node(values["Node"]),
            interface.rows(BackendState, values["Backends"]),
            Counters(totals, tasks),
        )

    async def _call(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        of: str = interface.NAME,
        within: float = CALL_WITHIN,
    ) -> List[Any]:
        for _ in range(TRIES):
            try:
                return await self._connection.call(
                    interface.NAME,
                    interface.PATH,
                    of,
                    member,
                    signature,
                    *body,
                    within=within,
                )
            except BusError as error:
                refused = _meant(error)
                if error.name != interface.LIMITS_EXCEEDED:
                    break
            await asyncio.sleep(RETRY)
        raise refused


def _meant(error: BusError) -> AgentError:
    if error.name in _NOBODY_THERE:
        return BusAway("no agent is on the system bus")
    if error.name == interface.ACCESS_DENIED:
        return NotAllowed(str(error))
    return error
