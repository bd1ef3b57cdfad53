"""Connection: one connection to the bus, from its start to its end.

Of dbus-fast, its messages are used, and what reads them.  Its MessageBus is of
no use here: it reads messages of any size, as long as there are some, so that
any user of the machine could keep the event loop busy; and it leaves the bus
for a flag that it does not know, or when the bus reads late.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import io
import os
import socket
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
)
from urllib.parse import unquote

from ngcp_task_agent.bus.frames import Frames
from ngcp_task_agent.bus.marshal import marshalled
from ngcp_task_agent.errors import BusAway, BusError

if TYPE_CHECKING:
    from dbus_fast.message import Message

OPEN_WITHIN = 5.0  # seconds
SEND_WITHIN = 5.0  # seconds for the bus to read a message
CALL_WITHIN = 10.0  # seconds for a reply, unless a call says otherwise

#: Takes calls, and signals that AddMatch has asked for; returns whether it was
#: for it.  Must not block.  A match has to name the sender: any user of the
#: machine can send signals that look like another's.
Handler = Callable[["Message"], bool]

_LONGEST_LINE = 1000  # bytes, of a login
_DEFAULT = "unix:path=/run/dbus/system_bus_socket"
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"


def system_bus_address() -> str:
    """Return the address of the system bus, as D-Bus defines it."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _DEFAULT


class Connection:
    """Sends messages, and calls methods of others.  open() makes one."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        loop = asyncio.get_running_loop()
        self._socket = sock
        self._handler = handler
        self._serial = 0
        self._sending = asyncio.Lock()
        self._replies: Dict[int, asyncio.Future[Message]] = {}
        self._frames = Frames()
        self._end: asyncio.Future[None] = loop.create_future()
        loop.add_reader(sock, self._read)

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
        place = _place(address or system_bus_address())
        connection = cls(await _connect(place), handler)
        try:
            hello = (_BUS, _BUS_PATH, _BUS, "Hello")
            await connection.call(*hello, within=OPEN_WITHIN)
        except BaseException as error:
            connection._close()
            if isinstance(error, BusError):
                raise _unusable(f"{error}") from None
            raise
        return connection

    @property
    def is_open(self) -> bool:
        return not self._end.done()

    async def lost(self) -> None:
        """Wait until it is lost or closed."""
        await asyncio.wait({self._end})

    async def close(self) -> None:
        self._close()

    def _close(self) -> None:
        if not self.is_open:
            return
        self._end.set_result(None)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(_lost())

    async def send(self, message: Message) -> None:
        """Send a message; return when the bus has it.

        :raises BusAway: when the connection is lost
        """
        message.serial = message.serial or self._next_serial()
        data = left = memoryview(await marshalled(message))
        async with self._sending:
            if not self.is_open:
                raise _lost()
            end = asyncio.get_running_loop().time() + SEND_WITHIN
            try:
                while True:
                    fds = message.unix_fds if len(left) == len(data) else ()
                    left = left[self._push(left, fds) :]
                    if not left:
                        return
                    await self._writable(end)
            except OSError:
                self._close()  # it does not read, or is gone
                raise _lost() from None
            except asyncio.CancelledError:
                if len(left) < len(data):
                    self._close()  # nothing can follow half a message
                raise

    def _push(self, data: memoryview, fds: Sequence[int]) -> int:
        """Send what the bus takes now; return how many bytes.

        :raises OSError: when the connection is lost
        """
        try:
            if fds:
                return socket.send_fds(self._socket, [data], fds)
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def _writable(self, end: float) -> None:
        """Wait until the bus takes more.

        :raises OSError: when it does not until the loop's time ``end``, or
            the connection is lost
        """
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._socket, _set, ready)
        try:
            await asyncio.wait(
                {ready, self._end},
                timeout=end - loop.time(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if self.is_open:
                loop.remove_writer(self._socket)
        if not ready.done():
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

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
            serial=self._next_serial(),
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

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _read(self) -> None:
        # Descriptors that come along are closed by the system: nothing here
        # takes any.
        try:
            data = self._socket.recv(self._frames.wanted)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        for frame in self._frames.add(data):
            message = _parse(frame)
            if message and self.is_open:
                self._receive(message)
        if not data:
            self._close()

    def _receive(self, message: Message) -> None:
        if message.reply_serial:
            reply = self._replies.get(message.reply_serial)
            if reply and not reply.done():
                reply.set_result(message)
            return
        is_signal = message.message_type.name == "SIGNAL"
        if is_signal and message.destination and message.sender != _BUS:
            return  # to us alone, past all matches
        self._handler(message)


def _lost() -> BusAway:
    return BusAway("the connection to the system bus was lost")


def _unusable(why: str) -> BusAway:
    return BusAway(f"the system bus cannot be used: {why}")


def _place(address: str) -> str:
    """Return the name of the bus's socket.

    :param address: as D-Bus defines it: several, of which only those of local
        sockets can be used
    :raises BusAway: when there is none
    """
    for one in address.split(";"):
        kind, _, rest = one.partition(":")
        for key, _, value in (w.partition("=") for w in rest.split(",")):
            if kind == "unix" and key in ("path", "abstract"):
                return ("\0" if key == "abstract" else "") + unquote(value)
    raise _unusable(f"its address is '{address}'")


async def _connect(place: str) -> socket.socket:
    """Return a socket that is connected and logged in.

    :raises BusAway: saying why that is not possible
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        # Does not wait, even if the bus accepts no more connections.
        sock.connect(place)
        await asyncio.wait_for(_log_in(sock), OPEN_WITHIN)
        await asyncio.to_thread(_load)
    except BaseException as error:
        sock.close()
        if isinstance(error, asyncio.TimeoutError):
            why = f"did not answer within {OPEN_WITHIN:g} s"
            raise BusAway(f"the system bus {why}") from None
        if isinstance(error, OSError):
            why = f"cannot be reached: {error.strerror or error}"
            raise BusAway(f"the system bus {why}") from None
        raise
    return sock


async def _log_in(sock: socket.socket) -> None:
    """Let the bus know who we are, and that we send descriptors.

    :raises BusAway: when it refuses
    """
    loop = asyncio.get_running_loop()
    user = str(os.geteuid()).encode().hex()
    for line, expected in (
        (f"\0AUTH EXTERNAL {user}", b"OK"),
        ("NEGOTIATE_UNIX_FD", b"AGREE_UNIX_FD"),
    ):
        await loop.sock_sendall(sock, f"{line}\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n") and len(answer) < _LONGEST_LINE:
            data = await loop.sock_recv(sock, _LONGEST_LINE)
            if not data:
                raise _unusable("it has hung up")
            answer += data
        if not answer.startswith(expected):
            raise _unusable(f"it answers {answer!r}")
    await loop.sock_sendall(sock, b"BEGIN\r\n")


def _load() -> None:
    """Import of dbus-fast what takes a while."""
    importlib.import_module("dbus_fast.message")
    importlib.import_module("dbus_fast._private.unmarshaller")


def _parse(frame: bytes) -> Optional[Message]:
    """Return a message, unless it has parts that dbus-fast does not know."""
    from dbus_fast._private.unmarshaller import Unmarshaller

    stream: Any = io.BytesIO(frame)
    try:
        return Unmarshaller(stream).unmarshall()
    except Exception:
        return None


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
