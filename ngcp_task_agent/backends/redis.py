"""The ``redis`` backend: requests and answers over Redis pub/sub.

One connection (redis_link.py) is subscribed to the control channels and read
here.  Answers are kept by the writer (redis_writer.py), in their order
(redis_outbox.py), and leave over connections that only publish
(redis_publisher.py).  What became of those on a connection that broke
(redis_delivery.py) is known from receipts (redis_receipts.py), to which the
first connection is subscribed, too.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import (
    AbstractSet,
    Any,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from redis.exceptions import ResponseError

from ngcp_task_agent import background, journal
from ngcp_task_agent.backends.backoff import Backoff
from ngcp_task_agent.backends.base import Arrival, Backend, Receiver
from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    Refused,
    describe_server,
)
from ngcp_task_agent.backends.redis_outbox import Encode
from ngcp_task_agent.backends.redis_publisher import LONGEST_CONNECT
from ngcp_task_agent.backends.redis_receipts import Receipts
from ngcp_task_agent.backends.redis_writer import Writer
from ngcp_task_agent.errors import NoReplyAddress

_LONGEST_CHANNEL = 512  # characters
_LARGE = 256 << 10  # bytes of an answer that others must not wait behind
# Of two ping intervals, in which a dead server must be noticed: one for the
# silence before the ping, one for its answer, and some for the agent itself.
_PART = 0.9
_UNSUBSCRIBE = 1.0  # seconds; whatever comes later is ignored all the same


class RedisBackend(Backend):
    """Subscribes to control channels, publishes to feedback channels."""

    options_schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "host": {
                "type": "string",
                "minLength": 1,
                "title": "a host name or an address",
            },
            "port": {
                "type": "integer",
                "minimum": 1,
                "maximum": 65535,
                "title": "a port number, 1 to 65535",
            },
            "db": {
                "type": "integer",
                "minimum": 0,
                "title": "the number of a database",
            },
            "unix_socket": {
                "type": "string",
                "pattern": "^/",
                "title": "an absolute path",
            },
            "username": {"type": "string", "minLength": 1},
            "password": {"type": "string", "minLength": 1},
            "password_file": {
                "type": "string",
                "pattern": "^/",
                "title": "an absolute path",
            },
            "tls": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    name: {
                        "type": "string",
                        "pattern": "^/",
                        "title": "the absolute path of a PEM file",
                    }
                    for name in ("ca", "cert", "key")
                },
                "dependentRequired": {"key": ["cert"]},
                "title": "a mapping of ca, cert and key; no key without cert",
            },
            "ping_interval": {
                "type": "number",
                "minimum": 0.1,
                "maximum": 3600,
                "title": "a number of seconds, 0.1 to 3600",
            },
        },
        "allOf": [
            {
                "not": {"required": ["password", "password_file"]},
                "title": "given only one of password and password_file",
            },
            {
                "not": {"required": ["host", "unix_socket"]},
                "title": "given only one of host and unix_socket",
            },
            {
                "not": {"required": ["port", "unix_socket"]},
                "title": "given only one of port and unix_socket",
            },
            {
                "not": {"required": ["tls", "unix_socket"]},
                "title": "given tls only for a host, not for a unix_socket",
            },
        ],
    }
    task_options_schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["control_channel"],
        "properties": {
            "control_channel": {
                "type": "string",
                "minLength": 1,
                "maxLength": _LONGEST_CHANNEL,
                "title": "a channel's name of 1 to 512 characters",
            },
        },
    }

    def __init__(
        self, name: str, options: Mapping[str, Any], receive: Receiver
    ) -> None:
        super().__init__(name, options, receive)
        self._server = describe_server(options)
        self._interval = options.get("ping_interval", 10) * _PART
        self._connect_within = min(2 * self._interval, LONGEST_CONNECT)
        self._receipts = Receipts(name)
        self._writer = Writer(
            name,
            options,
            min(2 * self._interval, 20.0),
            self._receipts,
            lambda: self._status == "subscribed",
        )
        self._status = "connecting"
        self._is_listening = True
        self._refusal = ""
        self._channels: AbstractSet[str] = frozenset()
        self._acknowledged: Set[str] = set()
        self._change = asyncio.Event()  # in what is acknowledged
        self._link: Optional[Link] = None
        self._tried = asyncio.Event()
        self._reader: Optional[asyncio.Task[None]] = None

    @classmethod
    def channel(cls, task_options: Mapping[str, Any]) -> str:
        return str(task_options["control_channel"])

    @property
    def status(self) -> str:
        return self._status

    async def start(self, channels: AbstractSet[str]) -> None:
        self._channels = channels
        self._writer.start()
        self._reader = background.start(self._run())
        await self._tried.wait()
        await self._writer.tried.wait()

    async def listen(self, channels: AbstractSet[str]) -> None:
        if not self._is_listening:
            channels = frozenset()
        before, self._channels = self._channels, channels
        link = self._link
        if link is None or link.closed.done():
            # The reader subscribes to what it finds when it is connected.
            return
        try:
            new, gone = channels - before, before - channels
            if new:
                await self._subscribe(link, new)
            if gone:
                await link.send("UNSUBSCRIBE", *sorted(gone))
        except LinkError as error:
            # The reader makes a new connection, with all that is wanted.
            await link.close(str(error))

    def reply_address(self, options: Mapping[str, Any]) -> str:
        channel = options.get("feedback_channel")
        if (
            not isinstance(channel, str)
            or not 1 <= len(channel) <= _LONGEST_CHANNEL
            or re.search("[\ud800-\udfff]", channel)
        ):
            raise NoReplyAddress(
                "options.feedback_channel must be a string of 1 to "
                f"{_LONGEST_CHANNEL} characters"
            )
        return channel

    def send(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        self._writer.send(address, messages, ref)

    async def send_large(
        self, address: str, encode: Encode, size: int, ref: Optional[str]
    ) -> None:
        if size <= _LARGE:
            await super().send_large(address, encode, size, ref)
        else:
            await self._writer.send_large(address, encode, size, ref)

    def hold_nobody(self) -> None:
        self._writer.hold_nobody()

    async def stop_listening(self) -> None:
        self._is_listening = False
        self._status = "stopped"
        # Whoever waits in start() or listen() waits no longer.
        self._tried.set()
        self._change.set()
        # The connection stays, for the receipts.
        try:
            await asyncio.wait_for(self.listen(frozenset()), _UNSUBSCRIBE)
        except asyncio.TimeoutError:
            pass

    async def stop(self, timeout: float) -> None:
        await self.stop_listening()
        await self._writer.stop(timeout)
        if self._reader:
            await background.end(self._reader)
        if self._link:
            await self._link.close("the agent has stopped")

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                link = await self._connect()
                backoff.connected()
                self._set_up()
                reason = await self._watch(link)
                await link.close(reason)
                self._set_down(reason)
            except LinkError as error:
                reason = str(error)
                self._set_down(reason, isinstance(error, Refused))
            self._receipts.stop_listening()
            await self._writer.redis_is_away(reason)
            await asyncio.sleep(backoff.next())

    async def _connect(self) -> Link:
        """A new connection, subscribed to all control channels."""
        link = await Link.open(
            self.options, self._on_push, self._connect_within
        )
        self._acknowledged.clear()
        self._link = link
        wanted: AbstractSet[str] = frozenset()
        try:
            await self._subscribe_to_receipts(link)
            # What is wanted may change meanwhile.
            while wanted != self._channels:
                wanted = self._channels
                await self._subscribe(link, wanted)
        except LinkError as error:
            await link.close(str(error))
            raise
        return link

    async def _subscribe_to_receipts(self, link: Link) -> None:
        """Subscribe to them, if Redis lets us; without them all works, too."""
        await link.identify(self._connect_within)
        if link.server is None:
            # Nobody could tell which server has carried out what.
            return
        replies = await link.call(
            [("SUBSCRIBE", self._receipts.channel)], self._connect_within
        )
        for reply in replies:
            if isinstance(reply, ResponseError):
                self._receipts.impossible("SUBSCRIBE", reply)
            else:
                self._receipts.listen(link)

    async def _subscribe(self, link: Link, channels: AbstractSet[str]) -> None:
        """Subscribe, and wait until Redis has acknowledged it.

        Or until the agent does not want to listen any longer.
        """
        if not channels:
            return
        self._acknowledged -= channels
        await link.send("SUBSCRIBE", *sorted(channels))
        deadline = time.monotonic() + self._connect_within
        while self._is_listening and not channels <= self._acknowledged:
            if link.closed.done():
                error = Refused if link.is_refused else LinkError
                raise error(link.closed.result())
            left = deadline - time.monotonic()
            if left <= 0:
                raise LinkError("the subscription was not acknowledged")
            self._change.clear()
            change = asyncio.ensure_future(self._change.wait())
            events: List[asyncio.Future[Any]] = [change, link.closed]
            await asyncio.wait(
                events,
                timeout=left,
                return_when=asyncio.FIRST_COMPLETED,
            )
            change.cancel()

    async def _watch(self, link: Link) -> str:
        """Wait for the end of a connection; says why it ended.

        A server that does not answer is as good as none, though nothing but
        a ping tells: a stalled one keeps its connections open.
        """
        pinged = 0.0
        while not link.closed.done():
            silent = time.monotonic() - link.heard
            if silent >= 2 * self._interval:
                return f"no answer within {silent:.1f} s"
            if silent >= self._interval and pinged < link.heard:
                pinged = time.monotonic()
                try:
                    await asyncio.wait_for(link.send("PING"), self._interval)
                except (LinkError, asyncio.TimeoutError):
                    return "a ping cannot be sent"
            steps = 1 if silent < self._interval else 2
            await asyncio.wait(
                {link.closed}, timeout=steps * self._interval - silent
            )
        return link.closed.result()

    def _on_push(self, push: Any) -> None:
        if isinstance(push, ResponseError):
            if self._link and not self._channels <= self._acknowledged:
                # Such as a user that may not subscribe to a channel.
                self._link.refuse(str(push))
            # Else of a ping: that it may not be sent is an answer too.
            return
        kind, channel, body = _as_push(push)
        if channel == self._receipts.channel:
            self._receipts.hear(body)
        elif kind == b"message" and self._is_listening:
            self.receive(
                Arrival(
                    self,
                    channel.decode(errors="replace"),
                    body,
                    self._writer.is_own_master,
                )
            )
        elif kind == b"subscribe":
            self._acknowledged.add(channel.decode(errors="replace"))
            self._change.set()

    def _set_up(self) -> None:
        if self._status not in ("subscribed", "stopped"):
            self._status = "subscribed"
            self._refusal = ""
            journal.record(
                journal.BACKEND_UP,
                f"backend {self.name}: subscribed at {self._server}: "
                + ", ".join(sorted(self._channels)),
                backend=self.name,
            )
        self._tried.set()
        self._writer.redis_is_back()

    def _set_down(self, reason: str, is_refused: bool = False) -> None:
        # One record for an outage, and one for each reason that waiting does
        # not mend: it may come up only while Redis starts.
        is_news = is_refused and reason != self._refusal
        if self._is_listening and (self._status != "away" or is_news):
            self._status = "away"
            journal.record(
                journal.BACKEND_DOWN,
                f"backend {self.name}: {self._server} is away: {reason}",
                backend=self.name,
            )
        self._refusal = reason if is_refused else self._refusal
        self._tried.set()


def _as_push(push: Any) -> Tuple[bytes, bytes, bytes]:
    """What was pushed, its channel and its text; nothing for other things."""
    if isinstance(push, list) and len(push) == 3:
        kind, channel, body = push
        if isinstance(kind, bytes) and isinstance(channel, bytes):
            return kind, channel, body if isinstance(body, bytes) else b""
    return b"", b"", b""
