"""Connection: one connection to the bus, from its start to its end.

dbus-fast carries the messages.  Of it only what all versions from 1.84 on do
alike is used: it sends one message at a time, since its queue is last in,
first out, and a send beside one under way can break the connection; and
replies are told apart here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Type,
)

from ngcp_task_agent.bus.text import sendable
from ngcp_task_agent.bus.turns import take_turns
from ngcp_task_agent.errors import BusAway, BusError

if TYPE_CHECKING:
    from dbus_fast.aio.message_bus import MessageBus
    from dbus_fast.message import Message

OPEN_WITHIN = 5.0  # seconds
SEND_WITHIN = 5.0  # seconds for the bus to read a message
CALL_WITHIN = 10.0  # seconds for a reply, unless a call says otherwise
_CLOSE_WITHIN = 1.0

#: Takes calls, and signals that AddMatch has asked for; returns whether it was
#: for it.  Must not block.  A match has to name the sender: any user of the
#: machine can send signals that look like another's.
Handler = Callable[["Message"], bool]

_DEFAULT = "unix:path=/run/dbus/system_bus_socket"
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"


def system_bus_address() -> str:
    """Return the address of the system bus, as D-Bus defines it."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _DEFAULT


class Connection:
    """Sends messages, and calls methods of others.  open() makes one."""

    def __init__(self, bus: MessageBus, handler: Handler) -> None:
        self._bus = bus
        self._handler = handler
        self._sending = asyncio.Lock()
        self._replies: Dict[int, asyncio.Future[Message]] = {}
        self._end = asyncio.ensure_future(bus.wait_for_disconnect())
        self._end.add_done_callback(self._fail_calls)
        bus.add_message_handler(self._receive)

    @classmethod
    async def open(
        cls,
        handler: Handler = lambda message: False,
        address: Optional[str] = None,
    ) -> Connection:
        """Connect.

        :param address: of the bus; the system's, if None
        :raises BusAway: saying why that is not possible
        """
        address = address or system_bus_address()
        try:
            _probe(address)
            bus = await asyncio.wait_for(_connect(address), OPEN_WITHIN)
        except asyncio.TimeoutError:
            raise BusAway(
                f"the system bus did not answer within {OPEN_WITHIN:g} s"
            ) from None
        except OSError as error:
            raise BusAway(
                f"the system bus cannot be reached: {error.strerror}"
            ) from None
        except Exception as error:
            # dbus-fast has many, for a wrong address or a refused login.
            raise BusAway(f"the system bus cannot be used: {error}") from None
        return cls(bus, handler)

    @property
    def is_open(self) -> bool:
        return not self._end.done()

    async def lost(self) -> None:
        """Wait until it is lost or closed."""
        await asyncio.wait({self._end})

    async def close(self) -> None:
        if self._bus.connected:
            self._bus.disconnect()
        await asyncio.wait({self._end}, timeout=_CLOSE_WITHIN)
        self._end.cancel()
        _close_socket(self._bus)

    async def send(self, message: Message) -> None:
        """Send a message; return when the bus has it.

        :raises BusAway: when the connection is lost
        """
        async with self._sending:
            if not self.is_open:
                raise _lost()
            message.body = sendable(message.body)
            sent = self._bus.send(message)
            await asyncio.wait(
                {sent, self._end},
                timeout=SEND_WITHIN,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if sent.done() and not sent.exception():
                return
            # It does not read, or is gone: nothing can follow half a message.
            sent.cancel()
            await self.close()
            raise _lost()

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
        """Call a method; return the body of the reply.

        :param fds: descriptors that the body names by their index; they can be
            closed after the call
        :param within: seconds
        :raises BusError: when the method returns an error, or no reply in time
        :raises BusAway: when the connection is lost
        """
        from dbus_fast.constants import MessageType
        from dbus_fast.message import Message

        message = Message(
            destination,
            path,
            interface,
            member,
            signature=signature,
            body=list(body),
            unix_fds=list(fds),
            serial=self._bus.next_serial(),
        )
        reply: asyncio.Future[Message]
        reply = asyncio.get_running_loop().create_future()
        self._replies[message.serial] = reply
        try:
            await self.send(message)
            answer = await asyncio.wait_for(reply, within)
        except asyncio.TimeoutError:
            raise BusError(
                f"{_BUS}.Error.NoReply",
                f"{destination} did not answer within {within:g} s",
            ) from None
        finally:
            del self._replies[message.serial]
            if reply.done() and not reply.cancelled():
                reply.exception()  # has been seen
        if answer.message_type is MessageType.ERROR:
            text = answer.body[0] if answer.signature[:1] == "s" else ""
            raise BusError(answer.error_name or "", text)
        return list(answer.body)

    async def call_bus(
        self, member: str, signature: str = "", *body: Any
    ) -> List[Any]:
        """Call a method of the bus itself, such as ``AddMatch``."""
        return await self.call(_BUS, _BUS_PATH, _BUS, member, signature, *body)

    def _receive(self, message: Message) -> bool:
        # Nothing here takes any: who sends some must not use up ours.
        for fd in message.unix_fds:
            os.close(fd)
        if message.reply_serial:
            reply = self._replies.get(message.reply_serial)
            if reply and not reply.done():
                reply.set_result(message)
            return True
        is_signal = message.message_type.name == "SIGNAL"
        if is_signal and message.destination and message.sender != _BUS:
            return True  # to us alone, past all matches
        return self._handler(message)

    def _fail_calls(self, end: asyncio.Future[None]) -> None:
        if not end.cancelled():
            end.exception()  # has been seen
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(_lost())


def _lost() -> BusAway:
    return BusAway("the connection to the system bus was lost")


def _probe(address: str) -> None:
    """Fail at once where dbus-fast would block, or need not be loaded.

    It connects with a blocking socket, which waits for ever for a bus that
    accepts no more connections.

    :raises OSError: when there is no such bus
    """
    kind, _, path = address.partition("=")
    if kind != "unix:path" or {*path} & {*",;%"}:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        probe.connect(path)


async def _connect(address: str) -> MessageBus:
    kind = await asyncio.to_thread(_load)
    bus: MessageBus = kind(address, negotiate_unix_fd=True)
    try:
        return await bus.connect()
    except BaseException:
        _close_socket(bus)
        raise


def _close_socket(bus: MessageBus) -> None:
    """Close what dbus-fast leaves to the garbage collector."""
    for name in ("_stream", "_sock"):
        opened = getattr(bus, name, None)
        if opened:
            with contextlib.suppress(OSError):
                opened.close()


def _load() -> Type[MessageBus]:
    """Import dbus-fast, which takes a while."""
    from dbus_fast.aio.message_bus import MessageBus

    take_turns(sys.modules["dbus_fast.message_bus"])
    kind: Type[MessageBus] = MessageBus
    return kind
