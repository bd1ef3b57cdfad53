"""Bus: one connection after another, while anyone needs them."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from ngcp_task_agent import background
from ngcp_task_agent.bus.connection import CALL_WITHIN, Connection
from ngcp_task_agent.errors import BusAway, BusError

if TYPE_CHECKING:
    from dbus_fast.message import Message

# Seconds between attempts to connect: often just after a loss, as the bus may
# soon be back; else seldom, as on a machine without a bus an idle agent would
# do little but look for it.
RETRY, RETRY_SELDOM = 1.0, 10.0
SOON = 60  # attempts
AT_ONCE = 8  # calls: a bus that reads late would break the connection


class BusUser(ABC):
    """A user of the bus: learns of each connection, and gets all messages."""

    @abstractmethod
    async def connected(self, connection: Connection) -> None:
        """Ask the bus for what this user needs: names, matches.

        Nobody's Bus.call() goes on before this has returned.  Bounded in time.

        :raises BusAway: when the connection is lost meanwhile
        :raises BusError: when the bus refuses, or does not answer: then it is
            connected anew
        """

    @abstractmethod
    def away(self, why: str) -> None:
        """The connection is lost, or an attempt to connect has failed."""

    def take(self, message: Message) -> bool:
        """Take a message that is no reply; return whether it was for it."""
        return False


class Bus:
    """Connects when the first user joins, and again after a loss."""

    def __init__(self, address: Optional[str] = None) -> None:
        self._address = address
        self._users: List[BusUser] = []
        self._connection: Optional[Connection] = None
        self._is_up = asyncio.Event()
        self._calls = asyncio.Semaphore(AT_ONCE)
        self._keeping: Optional[asyncio.Task[None]] = None

    async def join(self, user: BusUser) -> None:
        """Add a user, for good; does not wait for a connection."""
        self._users.append(user)
        if not self._keeping:
            self._keeping = background.start(self._keep())
        elif self._is_up.is_set() and self._connection:
            with contextlib.suppress(BusAway, BusError):
                await user.connected(self._connection)

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        fds: Sequence[int] = (),
        within: float = CALL_WITHIN,
    ) -> List[Any]:
        """Call a method as ``Connection.call()`` does.

        Waits for a connection, and for its turn, ``within`` seconds at most
        before the call itself.

        :raises BusError: when the method returns an error, or no reply in time
        :raises BusAway: when there is no connection
        """
        try:
            await asyncio.wait_for(self._is_up.wait(), within)
            await asyncio.wait_for(self._calls.acquire(), within)
        except asyncio.TimeoutError:
            raise BusAway("the system bus is away") from None
        try:
            if not self._connection:
                raise BusAway("the system bus is away")
            return await self._connection.call(
                destination,
                path,
                interface,
                member,
                signature,
                *body,
                fds=fds,
                within=within,
            )
        finally:
            self._calls.release()

    async def stop(self) -> None:
        """Close the connection, for good."""
        if self._keeping:
            await background.end(self._keeping)

    async def _keep(self) -> None:
        soon = 0  # attempts left
        while True:
            try:
                connection = await Connection.open(self._take, self._address)
            except BusAway as error:
                self._tell(f"{error}")
            else:
                await self._use(connection)
                soon = SOON
            await asyncio.sleep(RETRY if soon else RETRY_SELDOM)
            soon = max(0, soon - 1)

    async def _use(self, connection: Connection) -> None:
        self._connection = connection
        try:
            for user in self._users:  # others may join meanwhile
                await user.connected(connection)
            self._is_up.set()
            await connection.lost()
        except (BusAway, BusError):
            pass  # a bus that does not answer is as good as lost
        finally:
            self._is_up.clear()
            self._connection = None
            await connection.close()
        self._tell("the connection to the system bus was lost")

    def _tell(self, why: str) -> None:
        for user in self._users:
            user.away(why)

    def _take(self, message: Message) -> bool:
        return any(user.take(message) for user in self._users)


_buses: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bus] = (
    weakref.WeakKeyDictionary()
)


def system_bus() -> Bus:
    """Return the event loop's connection to the system bus."""
    loop = asyncio.get_running_loop()
    bus = _buses.get(loop)
    if not bus:
        bus = _buses[loop] = Bus()
    return bus
