"""Link: one connection to Redis, closed for good at its first error.

Built on redis-py's Connection, which authenticates and speaks the protocol
alike in 4.3.4 and 8.1.  Its layers above, which reconnect by themselves,
differ from version to version and lose messages.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
import ssl
import time
from collections import deque
from typing import (
    Any,
    Callable,
    Deque,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
)

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from ngcp_task_agent import background
from ngcp_task_agent.backends.redis.dial import Dial

CLIENT_NAME = "ngcp-task-agent"
LONGEST_CONNECT = 5.0  # seconds

# Replies that are taken in a row: while messages wait here, their senders wait
# for an answer, and processes for their start.
_BURST = 32
_HELD = 1.0  # seconds that a connection of use has held

OnMessage = Callable[[bytes, bytes], None]


class LinkError(Exception):
    """The server cannot be reached, or refuses; says why."""


class Refused(LinkError):
    """Waiting does not help: an administrator has to change something."""


class LoginRefused(Refused):
    """The server wants another password, or another user."""


class State(enum.Enum):
    """Whether there is a connection of a kind."""

    CONNECTING = "connecting"  # for the first time
    UP = "subscribed"
    AWAY = "away"  # the last attempt failed, or the connection is lost
    STOPPED = "stopped"


def ignore(channel: bytes, body: bytes) -> None:
    """No message comes to a connection that has not subscribed."""


async def wait_for_any(
    *futures: asyncio.Future[Any], timeout: Optional[float] = None
) -> None:
    """Wait until one of them is done, but so many seconds at most."""
    await asyncio.wait(
        set(futures), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
    )


class Link:
    """A connection of redis-py, with a task that reads all that comes.

    An error reply is a reply: it is returned, and the link stays.

    :param on_message: takes the channel and body of each message
    :ivar closed: done when the connection is lost; its result says why
    :ivar has_held: it was lost, but not soon
    :ivar heard: when anything came last, on the monotonic clock
    :ivar ends: our address and the server's; None for a unix socket
    """

    def __init__(self, connection: Any, on_message: OnMessage) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[LinkError] = loop.create_future()
        self.has_held = False
        self._opened = self.heard = time.monotonic()
        self.ends = _ends(connection)
        self._connection = connection
        self._on_message = on_message
        self._asked: Deque[asyncio.Future[Any]] = deque()
        self._reader = background.start(self._read())

    @classmethod
    async def open(
        cls,
        dial: Dial,
        on_message: OnMessage,
        timeout: float,
        address: Optional[str] = None,
    ) -> Link:
        """Connect and authenticate.

        :param address: of the server, where its name is not to be looked up
        :raises LinkError: also when it takes longer than ``timeout`` seconds
        """

        async def open() -> Link:
            connection = None
            try:
                connection = await dial(address)
                _keep_when_loading(connection)
                await connection.connect()
            except asyncio.CancelledError:
                await _disconnect(connection)
                raise
            except Exception as error:
                # Besides RedisError: files that are no use.
                await _disconnect(connection)
                if isinstance(error, (ValueError, OSError)):
                    raise Refused(_why(error)) from None
                raise _link_error(error) from None
            link = cls(connection, on_message)
            try:
                # redis-py's own fails where a user may not name itself.
                await link.ask(
                    "CLIENT", "SETNAME", CLIENT_NAME, timeout=timeout
                )
            except (LinkError, asyncio.CancelledError):
                await link.close("it took too long")
                raise
            return link

        # No wait_for(), which can lose a cancellation, and with it a link or
        # an error, before Python 3.12.
        attempt = asyncio.ensure_future(open())
        try:
            await asyncio.wait({attempt}, timeout=timeout)
            if not attempt.done():
                raise _too_late(timeout)
        except (LinkError, asyncio.CancelledError):
            await background.end(attempt)
            if not attempt.cancelled() and not attempt.exception():
                await attempt.result().close("it came too late")
            raise
        return attempt.result()

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    def check(self) -> None:
        """
        :raises LinkError: when the link is lost, saying why
        """
        if self.closed.done():
            raise self.closed.result()

    async def ask(self, *command: Any, timeout: float) -> Any:
        """Send a command; its reply, which may be a ResponseError.

        :raises LinkError: when the link is lost before the reply
        """
        (reply,) = await self.call([command], timeout)
        return reply

    async def call(
        self, commands: Sequence[Sequence[Any]], timeout: float
    ) -> List[Any]:
        """Send commands at once; their replies, as of ask()."""
        loop = asyncio.get_running_loop()
        asked = [loop.create_future() for _ in commands]
        self._asked.extend(asked)
        # No wait_for(): its extra task would delay what is sent.
        deadline = loop.call_later(timeout, self._give_up, timeout)
        try:
            await self._send(commands)
            await wait_for_any(asked[-1], self.closed)
        finally:
            deadline.cancel()
        if not asked[-1].done():
            self.check()
        return [reply.result() for reply in asked]

    async def subscribe(self, channels: Iterable[str], timeout: float) -> None:
        """Returns when messages of these channels arrive.

        :raises Refused: by Redis
        :raises LinkError: when the link is lost
        """
        # One by one, so that each command has one reply.
        commands = [("SUBSCRIBE", channel) for channel in channels]
        replies = await self.call(commands, timeout) if commands else []
        for (_, channel), reply in zip(commands, replies):
            if isinstance(reply, ResponseError):
                raise Refused(f"refuses to subscribe to {channel}: {reply}")

    async def watch(self, interval: float) -> None:
        """Wait until the link is lost.

        Only a ping shows that a server is stalled, or a cable cut.

        :param interval: seconds of silence until one is sent, and until it
            must be answered
        :raises LinkError: then, saying why
        """
        while True:
            left = self.heard + interval - time.monotonic()
            if left > 0:
                await wait_for_any(self.closed, timeout=left)
                self.check()
            else:
                # That it is refused is an answer, too.
                await self.ask("PING", timeout=interval)

    async def close(self, reason: str) -> None:
        """Close at once, whatever is still on its way."""
        self._end(LinkError(reason))
        await background.end(self._reader)
        await _disconnect(self._connection)

    async def _send(self, commands: Sequence[Sequence[Any]]) -> None:
        self.check()
        transport = _transport(self._connection)
        is_lost = transport is not None and transport.is_closing()
        if is_lost or not self._connection.is_connected:
            # The reader has not seen it yet.  redis-py would connect again,
            # and Python 3.12 and 3.13 would go on watching a descriptor that
            # is another's by then (github.com/python/cpython/issues/136234).
            self._end(LinkError("the connection is lost"))
            self.check()
        try:
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(
                packed, check_health=False
            )
        except (RedisError, OSError) as error:
            self._end(_link_error(error))
            self.check()

    async def _read(self) -> None:
        replies = 0
        try:
            while True:
                reply: Any
                try:
                    reply = await self._connection.read_response()
                except ResponseError as error:
                    reply = error
                self.heard = time.monotonic()
                if _is_message(reply):
                    self._on_message(*reply[1:])
                elif self._asked:
                    self._asked.popleft().set_result(reply)
                replies += 1
                if replies % _BURST == 0:
                    # What is already here must not starve the others.
                    await asyncio.sleep(0)
        except Exception as error:
            # Besides lost connections: whatever else a server, or what
            # pretends to be one, makes of redis-py's parsers.
            self._end(_link_error(error))
            await _disconnect(self._connection)

    def _give_up(self, timeout: float) -> None:
        self._end(_too_late(timeout))
        _abort(self._connection)

    def _end(self, error: LinkError) -> None:
        if not self.closed.done():
            self.has_held = time.monotonic() - self._opened >= _HELD
            self.closed.set_result(error)


def _keep_when_loading(connection: Any) -> None:
    """Have redis-py return LOADING as it does other errors.

    It would disconnect, though the server works: it loads its data.
    """
    parser = getattr(connection, "_parser", None)
    errors = dict(getattr(parser, "EXCEPTION_CLASSES", {}))
    if errors.pop("LOADING", None):
        kind = type(parser)
        body = {"EXCEPTION_CLASSES": errors, "__slots__": ()}
        parser.__class__ = type(kind.__name__, (kind,), body)


def _is_message(reply: Any) -> bool:
    return (
        isinstance(reply, list)
        and len(reply) == 3
        and reply[0] == b"message"
        and isinstance(reply[1], bytes)
        and isinstance(reply[2], bytes)
    )


def _transport(connection: Any) -> Any:
    writer = getattr(connection, "_writer", None)
    return getattr(writer, "transport", None)


def _ends(connection: Any) -> Optional[Tuple[Any, Any]]:
    transport = _transport(connection)
    if transport is None:
        return None
    ours, theirs = map(transport.get_extra_info, ("sockname", "peername"))
    return (ours[:2], theirs[:2]) if isinstance(theirs, tuple) else None


def _abort(connection: Any) -> None:
    """Drop the socket: a polite close waits for a server that is stalled."""
    transport = _transport(connection)
    if transport is not None:
        transport.abort()


async def _disconnect(connection: Any) -> None:
    """Close a connection without waiting for what it still has to send."""
    _abort(connection)
    if connection is not None:
        try:
            await asyncio.wait_for(connection.disconnect(), 1)
        except (RedisError, OSError, asyncio.TimeoutError):
            pass


def _too_late(timeout: float) -> LinkError:
    return LinkError(f"no answer within {timeout:g} s")


def _link_error(error: Exception) -> LinkError:
    """An error of redis-py as one of ours."""
    refusals = (ResponseError, AuthenticationError)
    # Over a unix socket it wraps its own errors, too.
    cause = error.__cause__ or error.__context__
    if isinstance(error, refusals) or isinstance(cause, refusals):
        return LoginRefused(f"refuses the login: {_why(error)}")
    is_refused = isinstance(cause, ssl.SSLError)
    return (Refused if is_refused else LinkError)(_why(error))


def _why(error: BaseException) -> str:
    """An error in words.

    redis-py wraps the system's errors in texts such as "Error 111 connecting
    to host:6379. 111.", or, for a wrong certificate, "Error 1 ... 1."; with a
    unix socket it may miss the host.
    """
    cause = error.__cause__ or error.__context__
    wraps = isinstance(error, (RedisError, AttributeError))
    if wraps and isinstance(cause, OSError):
        return _why(cause)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        named = f" ({error.filename})" if error.filename else ""
        return f"{os.strerror(error.errno or 0)}{named}"
    return str(error) or type(error).__name__
