"""systemd, which runs as process 1, over the bus."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Coroutine,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
)

from ngcp_task_agent import background
from ngcp_task_agent.brokers.systemd.names import object_path
from ngcp_task_agent.bus.bus import BusUser, system_bus
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusAway, BusError

if TYPE_CHECKING:
    from dbus_fast.message import Message

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = f"{NAME}.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
NO_SUCH_UNIT = f"{NAME}.NoSuchUnit"
NO_SUCH_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
NO_REPLY = "org.freedesktop.DBus.Error.NoReply"

# ExecMainCode of services, as in siginfo_t.
EXITED = 1
KILLED = (2, 3)  # the latter with a core dump

_BUS = "org.freedesktop.DBus"
_OWNER_CHANGES = f"interface='{_BUS}',member='NameOwnerChanged',arg0='{NAME}'"

UP_WITHIN = 10.0  # seconds for the bus to be there

#: Properties of a unit, by name.
Properties = Mapping[str, Any]


async def call(
    member: str, signature: str = "", *body: Any, fds: Sequence[int] = ()
) -> List[Any]:
    """Call a method of systemd's manager.

    :raises BusError: when it refuses, or does not answer
    :raises BusAway: when there is no connection
    """
    return await system_bus().call(
        NAME, PATH, MANAGER, member, signature, *body, fds=fds
    )


async def properties(unit: str) -> Properties:
    """Return all properties of a unit; ``LoadState`` says if it exists.

    :raises BusError: when there is no answer
    :raises BusAway: when there is no connection
    """
    (found,) = await system_bus().call(
        NAME, object_path(unit), PROPERTIES, "GetAll", "s", ""
    )
    return plain(found)


def plain(variants: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the values of variants."""
    return {name: variant.value for name, variant in variants.items()}


class Listener(BusUser):
    """Listens to signals of systemd, from one connection to the next."""

    #: The rest of a match rule.
    signals: ClassVar[str]

    def __init__(self) -> None:
        self._is_up = asyncio.Event()
        self._why = "the system bus is away"
        self._background: Set[asyncio.Task[None]] = set()
        self._connection: Optional[Connection] = None
        self.in_background(system_bus().join(self))

    @abstractmethod
    async def resume(self, connection: Connection) -> None:
        """Ask for what may have happened while there was no connection.

        :raises BusAway: when the connection is lost
        """

    async def up(self) -> None:
        """Wait until signals arrive.

        :raises BusAway: when there is no connection for some time
        """
        try:
            await asyncio.wait_for(self._is_up.wait(), UP_WITHIN)
        except asyncio.TimeoutError:
            raise BusAway(self._why) from None

    def in_background(self, step: Coroutine[Any, Any, None]) -> None:
        task = background.start(step)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def connected(self, connection: Connection) -> None:
        # The sender is named: any user of the machine can send signals.
        for sender, signals in ((NAME, self.signals), (_BUS, _OWNER_CHANGES)):
            rule = f"type='signal',sender='{sender}',{signals}"
            await connection.call_bus("AddMatch", "s", rule)
        await self._listen(connection)
        self._is_up.set()

    def take(self, message: Message) -> bool:
        if message.member == "NameOwnerChanged" and message.sender == _BUS:
            name, _, owner = message.body
            if name == NAME and owner and self._connection:
                # It was away, such as when it was upgraded.
                self.in_background(self._listen_again(self._connection))
        return False

    async def _listen(self, connection: Connection) -> None:
        self._connection = connection
        # Refused if this connection has done it before; systemd may be away.
        with contextlib.suppress(BusError):
            await connection.call(NAME, PATH, MANAGER, "Subscribe")
        await self.resume(connection)

    async def _listen_again(self, connection: Connection) -> None:
        with contextlib.suppress(BusAway):
            await self._listen(connection)

    def away(self, why: str) -> None:
        self._connection = None
        self._is_up.clear()
        self._why = why
