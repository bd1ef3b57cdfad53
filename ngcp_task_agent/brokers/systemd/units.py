"""Units: follows units until they end, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import weakref
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional

from ngcp_task_agent.brokers.systemd import pid1
from ngcp_task_agent.brokers.systemd.names import object_path
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusAway, BusError

if TYPE_CHECKING:
    from dbus_fast.message import Message

# Seconds without news until a unit is asked for: systemd may have left the bus
# for a moment, when it was upgraded.
ASK_AFTER = 10.0
RETRY = 1.0  # seconds until a unit is asked again to stop


class Unit:
    """What is known of a unit that is followed.

    :ivar known: its properties; those of its end remain
    :ivar may_exist: whether the call that starts or stops it is over; before,
        it may be about to begin
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Dict[str, Any] = {}
        self.may_exist = False
        self._end: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )

    @property
    def has_ended(self) -> bool:
        return self._end.done()

    @property
    def is_gone(self) -> bool:
        """Whether its end was missed, or it never began."""
        return self.known.get("LoadState") == "not-found"

    def update(self, changed: pid1.Properties) -> None:
        """Take properties that have changed, or all."""
        if self.has_ended:
            return
        self.known.update(changed)
        # A new unit is inactive, but has a job.
        state, job = self.known.get("ActiveState"), self.known.get("Job")
        if state in ("inactive", "failed") and job and job[0] == 0:
            self._end.set_result(None)

    async def ended(self, within: Optional[float] = None) -> bool:
        """Wait until it has ended; return whether it has.

        :param within: seconds; None for no limit
        """
        deadline = math.inf if within is None else time.monotonic() + within
        while not self.has_ended:
            left = min(deadline - time.monotonic(), ASK_AFTER)
            if left <= 0:
                return False
            await asyncio.wait({self._end}, timeout=left)
            if not self.has_ended:
                with contextlib.suppress(BusAway, BusError):
                    self.update(await pid1.properties(self.name))
        return True


class Units(pid1.Listener):
    """The units that are followed, by their paths on the bus."""

    signals = (
        f"interface='{pid1.PROPERTIES}',member='PropertiesChanged',"
        f"path_namespace='{pid1.PATH}/unit'"
    )

    def __init__(self) -> None:
        super().__init__()
        self._units: Dict[str, Unit] = {}

    @contextlib.contextmanager
    def following(self, unit: Unit) -> Iterator[None]:
        """Within, pass on to a unit what systemd says about it."""
        path = object_path(unit.name)
        self._units[path] = unit
        try:
            yield
        finally:
            del self._units[path]

    def stop(self, unit: Unit) -> None:
        """Have a unit stopped, as soon as there is a bus."""
        self.in_background(self._stop(unit))

    async def resume(self, connection: Connection) -> None:
        for path, unit in list(self._units.items()):
            if not unit.may_exist:
                continue
            try:
                (found,) = await connection.call(
                    pid1.NAME, path, pid1.PROPERTIES, "GetAll", "s", ""
                )
            except BusError:
                return  # systemd is away, or busy: ended() asks again
            unit.update(pid1.plain(found))

    def take(self, message: Message) -> bool:
        unit = self._units.get(message.path or "")
        if not unit or message.member != "PropertiesChanged":
            return super().take(message)
        unit.update(pid1.plain(message.body[1]))
        return True

    async def _stop(self, unit: Unit) -> None:
        while not unit.has_ended:
            try:
                await pid1.call("StopUnit", "ss", unit.name, "replace")
                return
            except BusError as error:
                if error.name == pid1.NO_SUCH_UNIT:
                    gone = {"ActiveState": "inactive", "Job": (0, "/")}
                    unit.update({"LoadState": "not-found", **gone})
                    return
            except BusAway:
                pass
            await asyncio.sleep(RETRY)


_units: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Units] = (
    weakref.WeakKeyDictionary()
)


def units() -> Units:
    """Return the units that the event loop follows."""
    loop = asyncio.get_running_loop()
    found = _units.get(loop)
    if not found:
        found = _units[loop] = Units()
    return found
