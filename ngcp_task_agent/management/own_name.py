"""OwnName: the agent's name on the bus, which one agent can have."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusError
from ngcp_task_agent.logs import journal
from ngcp_task_agent.management import interface

if TYPE_CHECKING:
    from dbus_fast.message import Message

_BUS = "org.freedesktop.DBus"

# Flags of RequestName, and its answers.
_ALLOW_REPLACEMENT, _REPLACE_EXISTING, _DO_NOT_QUEUE = 1, 2, 4
_IS_OWNER, _IN_QUEUE, _ALREADY_OWNER = 1, 2, 4

# Seconds between attempts to get the name, when the bus has refused it: its
# policy may be installed just after the agent has started.
_SHORTEST_RETRY, _LONGEST_RETRY = 2.0, 60.0


class OwnName:
    """The name on the bus: whether the agent owns it, and why not.

    :ivar is_leaving: the agent is stopping: nothing more to say
    """

    def __init__(self) -> None:
        self.is_owned = False
        self.is_leaving = False
        self._is_queued = False
        self._has_said = False  # why it does not own the name
        self._retry, self._retry_at = _SHORTEST_RETRY, 0.0

    async def request(self, connection: Connection) -> None:
        """
        :raises BusAway: when the connection is lost
        :raises BusError: when the bus does not answer
        """
        flags = _ALLOW_REPLACEMENT
        if _is_service():
            flags = _REPLACE_EXISTING | _DO_NOT_QUEUE
        self._is_queued = False
        self._retry_at = asyncio.get_running_loop().time() + self._retry
        self._retry = min(2 * self._retry, _LONGEST_RETRY)
        try:
            (answer,) = await connection.call_bus(
                "RequestName", "su", interface.NAME, flags
            )
            if answer in (_IS_OWNER, _ALREADY_OWNER):
                self._gain()
                return
            self._is_queued = answer == _IN_QUEUE
            why = await _owner(connection)
        except BusError as error:
            if error.name == f"{_BUS}.Error.NoReply":
                raise
            why = f"the bus refuses the name {interface.NAME}: {error}"
        self.lose(why)

    def is_due(self) -> bool:
        """Whether to request it again."""
        now = asyncio.get_running_loop().time()
        return not self._is_queued and now >= self._retry_at

    def take(self, message: Message) -> bool:
        """Follow the signals of the bus about it."""
        if message.sender != _BUS:
            return False
        if message.member not in ("NameAcquired", "NameLost"):
            return False
        if message.body == [interface.NAME]:
            if message.member == "NameAcquired":
                self._gain()
            elif self.is_owned:
                self._is_queued = not _is_service()
                self.lose("another agent has taken the name")
        return True

    def lose(self, why: str) -> None:
        """It is not owned now, or still not."""
        was, self.is_owned = self.is_owned, False
        if self.is_leaving or (self._has_said and not was):
            return
        self._has_said = True
        journal.record(
            journal.BUS_DOWN,
            f"not managed over the bus: {why}; SIGHUP reloads",
        )

    def _gain(self) -> None:
        self._retry = _SHORTEST_RETRY
        if self.is_owned:
            return
        self.is_owned, self._has_said = True, False
        journal.record(
            journal.BUS_UP,
            f"managed over the bus, as {interface.NAME}",
        )


def _is_service() -> bool:
    """Whether the unit has started it: it takes the name from others."""
    return bool(os.environ.get("NGCP_TASK_AGENT_SLICE"))


async def _owner(connection: Connection) -> str:
    try:
        (pid,) = await connection.call_bus(
            "GetConnectionUnixProcessID", "s", interface.NAME
        )
    except BusError:
        return f"another process owns {interface.NAME}"
    return f"process {pid} owns {interface.NAME}"
