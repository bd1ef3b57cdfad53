"""Callers: who calls over the bus, and what they may do.

Any user of the machine may call, as often as it likes.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, OrderedDict
from typing import Optional, Union

from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusError
from ngcp_task_agent.management import interface
from ngcp_task_agent.process.users import own_user

POLKIT_WITHIN = 5.0  # seconds; the bus may have to start it
# Calls under way of a user who needs polkit, and of a connection until its
# user is known.
AT_ONCE = 8
# Calls under way of all connections whose user is not known yet.  Somebody may
# open new ones faster than the bus says whose they are.
UNKNOWN_AT_ONCE = 256
# Connections whose user is remembered: a name is never given to another one.
_REMEMBERED = 1000
# Questions of each kind at once, which leaves the bus to others.
_QUESTIONS = 2

_POLKIT = "org.freedesktop.PolicyKit1"

#: Whose calls are counted: a user, by its uid; or a connection, by its name,
#: until its user is known.
Who = Union[int, str]


class Callers:
    """The callers over one connection to the bus."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._uids: OrderedDict[str, int] = OrderedDict()
        self._asking_bus = asyncio.Semaphore(_QUESTIONS)
        self._asking_polkit = asyncio.Semaphore(_QUESTIONS)
        self._under_way: Counter[Who] = Counter()
        self._unknown = 0

    def who(self, sender: str) -> Who:
        return self._uids.get(sender, sender)

    def has_room(self, who: Who) -> bool:
        """Whether one more call can be under way."""
        if isinstance(who, str) and self._unknown >= UNKNOWN_AT_ONCE:
            return False
        return self._under_way[who] < AT_ONCE or _is_trusted(who)

    def enter(self, who: Who) -> None:
        """Count a call, until leave()."""
        self._under_way[who] += 1
        self._unknown += isinstance(who, str)

    def leave(self, who: Who) -> None:
        self._under_way[who] -= 1
        self._unknown -= isinstance(who, str)
        if not self._under_way[who]:
            del self._under_way[who]

    async def uid(self, sender: str) -> int:
        """Return the user of a connection.

        :raises BusError: when the connection is gone
        :raises BusAway: when the bus is
        """
        async with self._asking_bus:
            uid = self._uids.get(sender)
            if uid is None:
                (uid,) = await self.connection.call_bus(
                    "GetConnectionUnixUser", "s", sender
                )
                self._uids[sender] = uid
                if len(self._uids) > _REMEMBERED:
                    self._uids.popitem(last=False)
        return int(uid)

    async def check(self, sender: str, uid: int, action: str) -> None:
        """
        :param action: what polkit would have to grant
        :raises BusError: when this caller may not do that
        """
        if not _is_trusted(uid):
            why = await self._why_not(sender, action)
            if why is not None:
                raise BusError(interface.ACCESS_DENIED, why)

    async def _why_not(self, sender: str, action: str) -> Optional[str]:
        """Ask polkit; return why the caller may not, or None."""
        from dbus_fast.signature import Variant

        who = "only root may do that"
        if own_user().uid:
            who = f"only root and '{own_user().name}' may do that"
        subject = ["system-bus-name", {"name": Variant("s", sender)}]
        try:
            async with self._asking_polkit:
                (found,) = await self.connection.call(
                    _POLKIT,
                    "/org/freedesktop/PolicyKit1/Authority",
                    f"{_POLKIT}.Authority",
                    "CheckAuthorization",
                    "(sa{sv})sa{ss}us",
                    *(subject, action, {}, 0, ""),
                    within=POLKIT_WITHIN,
                )
        except BusError as error:
            return f"{who}: polkit cannot be asked: {error}"
        if found[0] is True:
            return None
        return f"{who}, and those to whom polkit grants {action}"


def too_many() -> BusError:
    return BusError(
        interface.LIMITS_EXCEEDED,
        f"more than {AT_ONCE} calls at once, or {UNKNOWN_AT_ONCE} of new "
        "connections: wait for replies",
    )


def _is_trusted(who: Who) -> bool:
    return who in (0, os.geteuid())
