"""Link: one connection to Redis.

Built on redis-py's Connection, which works alike in 4.3.4 and 8.1.  The layers
above it reconnect by themselves, differ between versions, and lose messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import ssl
import time
from collections import deque
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from ngcp_task_agent import background
from ngcp_task_agent.backends.redis.dial import Dial

CLIENT_NAME = "ngcp-task-agent"

# Replies read in a row; all else in the event loop waits for that long.
_BURST = 32

_STILL_READ = 0.05  # seconds to read what has come before a deadline

OnMessage = Callable[[bytes, bytes], None]  # takes a channel and a body


class LinkError(Exception):
    """The server cannot be reached, or refuses; says why."""


class Refused(LinkError):
    """Retrying does not help: an administrator must change something."""


async def wait_for_any(
    *futures: asyncio.Future[Any], timeout: Optional[float] = None
) -> None:
    """Wait until one of them is done, or for ``timeout`` seconds."""
    await asyncio.wait(
        set(futures), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
    )


class _Call:
    """Commands that were sent together, and their replies so far.

    :ivar ended: done when there are no more to come
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.replies: list[Any] = []
        self.ended = asyncio.get_running_loop().create_future()

    def add(self, reply: Any) -> bool:
        """Add a reply; return whether it is the last one."""
        self.replies.append(reply)
        is_last = len(self.replies) == self.size
        if is_last:
            self.end()
        return is_last

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Link:
    """A connection of redis-py, closed for good at its first error.

    An error reply is not such an error: it is returned, and the link stays.
    All methods that use a lost link raise LinkError.

    :ivar closed: done when it is lost; the result says why
    """

    def __init__(self, dial: Dial, address: Optional[str], take: OnMessage):
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[LinkError] = loop.create_future()
        self._connected: asyncio.Future[None] = loop.create_future()
        self._connection: Any = None
        self._take = take
        self._calls: deque[_Call] = deque()
        self._heard = time.monotonic()
        self._task = background.start(self._run(dial, address))

    @classmethod
    async def open(
        cls,
        dial: Dial,
        timeout: float,
        on_message: OnMessage = lambda channel, body: None,
        address: Optional[str] = None,
    ) -> Link:
        """Connect and log in, within ``timeout`` seconds.

        :param address: the server's, if its name must not be looked up
        """
        link = cls(dial, address, on_message)
        try:
            with link._deadline(timeout):
                await wait_for_any(link._connected, link.closed)
                link.check()
                # redis-py's own fails where a user may not name itself.
                name = ("CLIENT", "SETNAME", CLIENT_NAME)
                await link.ask(*name, timeout=timeout)
        except (LinkError, asyncio.CancelledError):
            await link.close("it was not opened")
            raise
        return link

    @property
    def ends(self) -> Optional[tuple[Any, Any]]:
        """Our address and the server's, with ports; None for a unix socket."""
        transport = self._transport
        peer = transport and transport.get_extra_info("peername")
        if not isinstance(peer, tuple):
            return None
        return transport.get_extra_info("sockname")[:2], peer[:2]

    def check(self) -> None:
        """Raise LinkError if the link is lost."""
        if self.closed.done():
            raise self.closed.result()

    async def ask(self, *command: Any, timeout: float) -> Any:
        """Send a command; return its reply, which may be a ResponseError."""
        (reply,) = await self.call([command], timeout)
        return reply

    async def call(
        self, commands: Sequence[Sequence[Any]], timeout: float
    ) -> list[Any]:
        """Send commands at once; return their replies, as ask() does."""
        call = _Call(len(commands))
        self._calls.append(call)
        with self._deadline(timeout):
            await self._send(commands)
            await call.ended
        if len(call.replies) < call.size:
            self.check()
        return call.replies

    async def subscribe(self, channels: Iterable[str], timeout: float) -> None:
        """Return when messages of these channels arrive."""
        # One by one, so that each command has one reply.
        commands = [("SUBSCRIBE", channel) for channel in channels]
        replies = await self.call(commands, timeout) if commands else []
        for (_, channel), reply in zip(commands, replies):
            if isinstance(reply, ResponseError):
                raise Refused(f"refuses to subscribe to {channel}: {reply}")

    async def watch(self, interval: float) -> None:
        """Wait until the link is lost.

        After ``interval`` seconds of silence the server is pinged, and has as
        long to answer: nothing else shows a cut cable, or a stalled server.
        """
        while True:
            silence = time.monotonic() - self._heard
            if silence < interval:
                await wait_for_any(self.closed, timeout=interval - silence)
                self.check()
            else:
                await self.ask("PING", timeout=interval)

    async def close(self, reason: str) -> None:
        """Close at once, whatever is still on its way."""
        self._end(LinkError(reason))
        await background.end(self._task)

    @property
    def _transport(self) -> Any:
        writer = getattr(self._connection, "_writer", None)
        return getattr(writer, "transport", None)

    @contextlib.contextmanager
    def _deadline(self, timeout: float) -> Iterator[None]:
        # No wait_for(): its extra task would delay what is sent, and before
        # Python 3.12 it can lose a cancellation.
        error = LinkError(f"no answer within {round(timeout, 2):g} s")
        loop = asyncio.get_running_loop()
        timer = loop.call_later(timeout, lambda: late())

        def late() -> None:
            # Perhaps the answer is here, and only the event loop was late.
            nonlocal timer
            timer = loop.call_later(_STILL_READ, self._end, error)

        try:
            yield
        finally:
            timer.cancel()

    async def _run(self, dial: Dial, address: Optional[str]) -> None:
        try:
            self._connection = await dial(address)
            await self._connection.connect()
            self._connected.set_result(None)
            await self._read()
        except Exception as error:
            # Besides RedisErrors: unusable files, and whatever a server that
            # is not Redis makes of redis-py's parsers.
            self._end(_link_error(error, not self._connected.done()))
        finally:
            if self._connection is not None:
                gone = RedisError, OSError, asyncio.TimeoutError
                with contextlib.suppress(*gone):
                    await asyncio.wait_for(self._connection.disconnect(), 1)

    async def _read(self) -> None:
        for count in itertools.count(1):
            reply: Any
            try:
                reply = await self._connection.read_response()
            except ResponseError as error:
                reply = error
            self._heard = time.monotonic()
            if _is_message(reply):
                self._take(*reply[1:])
            elif self._calls and self._calls[0].add(reply):
                self._calls.popleft()
            if count % _BURST == 0:
                # What is already here must not starve the others.
                await asyncio.sleep(0)

    async def _send(self, commands: Sequence[Sequence[Any]]) -> None:
        connection, transport = self._connection, self._transport
        is_closing = transport is not None and transport.is_closing()
        if is_closing or not connection.is_connected:
            # The reader will say why.  redis-py would connect again, and
            # Python 3.12 and 3.13 would go on watching a descriptor that is
            # another's by then (github.com/python/cpython/issues/136234).
            await wait_for_any(self.closed, timeout=_STILL_READ)
            self._end(LinkError("the connection is lost"))
        self.check()
        try:
            packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError) as error:
            self._end(_link_error(error))

    def _end(self, error: LinkError) -> None:
        if not self.closed.done():
            self.closed.set_result(error)
            for call in self._calls:
                call.end()
        abort = getattr(self._transport, "abort", None)  # not in fakeredis
        if abort:
            abort()  # a polite close waits for a server that is stalled


def _is_message(reply: Any) -> bool:
    if not isinstance(reply, list) or len(reply) != 3:
        return False
    kind, channel, body = reply
    return kind == b"message" and type(channel) is type(body) is bytes


def _link_error(error: BaseException, is_opening: bool = False) -> LinkError:
    """Say what is wrong, without redis-py's words around a system's error.

    With a unix socket it wraps its own errors, too, and may miss a host name.
    """
    cause = error.__cause__ or error.__context__
    refusals = (ResponseError, AuthenticationError)
    if isinstance(error, refusals) or isinstance(cause, refusals):
        return Refused(f"refuses the login: {error}")
    # Not redis-py's: a file that the options name.
    is_refused = is_opening and isinstance(error, (ValueError, OSError))
    is_wrapper = isinstance(error, (RedisError, AttributeError, IndexError))
    if is_wrapper and isinstance(cause, OSError):
        error = cause
    text = str(error) or type(error).__name__
    if isinstance(error, ConnectionResetError):
        text = os.strerror(errno.ECONNRESET)  # asyncio's own says nothing
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is not valid: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        text = f"TLS: {error.reason or text}"
    elif isinstance(error, OSError) and error.errno:
        # Those of a name service are negative, and unknown to strerror().
        known = os.strerror(error.errno) if error.errno > 0 else error.strerror
        text = f"{known} ({error.filename})" if error.filename else str(known)
    is_refused = is_refused or isinstance(error, ssl.SSLError)
    return (Refused if is_refused else LinkError)(text)
