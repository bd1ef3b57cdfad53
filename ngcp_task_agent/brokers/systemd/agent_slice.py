"""AgentSlice: where all units of this agent run."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from pathlib import Path

from ngcp_task_agent import background
from ngcp_task_agent.brokers.systemd import pid1
from ngcp_task_agent.brokers.systemd.names import slice_name
from ngcp_task_agent.brokers.systemd.units import Unit, units
from ngcp_task_agent.errors import BusAway, BusError

STOP_WITHIN = 20.0  # seconds for what an earlier agent has left


class AgentSlice:
    """A slice that is stopped once, before anything runs in it.

    An earlier agent may have been killed while its units were running.  The
    unit of the service stops them, too, but an agent can run without it.
    """

    def __init__(self, folder: Path) -> None:
        self.name = slice_name(folder)
        self._lock = asyncio.Lock()
        self._is_cleared = False
        self._attempt = background.start(self._try())

    async def clear(self) -> None:
        """Stop it, unless that was done.

        :raises BusAway: when there is no connection to the bus
        :raises BusError: when systemd refuses, or does not answer
        """
        async with self._lock:
            if not self._is_cleared:
                await self._stop()
                self._is_cleared = True

    async def _try(self) -> None:
        with contextlib.suppress(BusAway, BusError):
            await self.clear()

    async def _stop(self) -> None:
        unit = Unit(self.name)
        with units().following(unit):
            await units().up()
            try:
                await pid1.call("StopUnit", "ss", self.name, "replace")
            except BusError as error:
                if error.name != pid1.NO_SUCH_UNIT:
                    raise
                return
            unit.may_exist = True
            if not await unit.ended(STOP_WITHIN):
                what = f"cannot be stopped within {STOP_WITHIN:g} s"
                raise BusError("", f"{self.name}, left by an agent, {what}")


_slices: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AgentSlice] = (
    weakref.WeakKeyDictionary()
)


def agent_slice(folder: Path) -> AgentSlice:
    """Return the slice of this event loop's agent.

    :param folder: its configuration
    """
    loop = asyncio.get_running_loop()
    found = _slices.get(loop)
    if not found:
        found = _slices[loop] = AgentSlice(folder)
    return found
