"""The ``redis`` backend: requests and answers over Redis pub/sub."""

from __future__ import annotations

import asyncio
import re
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    Mapping,
    Optional,
    Sequence,
)

from redis.exceptions import ResponseError

from ngcp_task_agent.backends.base import LEAVING, Arrival, Backend, Receiver
from ngcp_task_agent.backends.redis.connection import (
    LONGEST_CONNECT,
    Link,
    LinkError,
    State,
    ignore,
    wait_for_any,
)
from ngcp_task_agent.backends.redis.dial import (
    Dial,
    describe_server,
    dial_server,
)
from ngcp_task_agent.backends.redis.lane import Lane, LargeLane
from ngcp_task_agent.backends.redis.options import (
    LONGEST_CHANNEL,
    OPTIONS,
    TASK_OPTIONS,
)
from ngcp_task_agent.backends.redis.outbox import Answer, CutOff
from ngcp_task_agent.backends.redis.publisher import Publisher
from ngcp_task_agent.backends.redis.server import identify
from ngcp_task_agent.backends.redis.subscriber import Subscriber
from ngcp_task_agent.errors import NoReplyAddress
from ngcp_task_agent.logs import journal

# Ping intervals for which it is believed what the server has said of itself.
_BELIEVED = 3

Encode = Callable[[], Sequence[bytes]]


class RedisBackend(Backend):
    """Subscribes to control channels, publishes to feedback channels.

    :param dial: makes connections, instead of those to the options' server
    """

    options_schema = OPTIONS
    task_options_schema = TASK_OPTIONS

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        receive: Receiver,
        dial: Optional[Dial] = None,
    ) -> None:
        super().__init__(name, options, receive)
        self._dial = dial or dial_server(options)
        self._interval: float = options.get("ping_interval", 10)
        self._within = min(2 * self._interval, LONGEST_CONNECT)
        # What the journal knows, by topic.
        self._said: Dict[str, object] = {
            "link": None,
            "answers": State.UP,
            "large answers": State.UP,
            "script": "",
            "replica": False,
            "database": "",
        }
        self._subscriber = Subscriber(
            self._dial, self._interval, self._on_message, self._on_subscriber
        )
        cut_off = CutOff()
        small, large = (
            kind(
                name,
                Publisher(self._connect, self._interval),
                self._interval,
                cut_off,
                self._on_lanes,
                identify,
            )
            for kind, identify in ((Lane, self._identify), (LargeLane, None))
        )
        self._lanes = small, large
        # Done when nothing waits any more for a large answer to leave.
        self._released = asyncio.get_running_loop().create_future()

    @classmethod
    def channel(cls, task_options: Mapping[str, Any]) -> str:
        return str(task_options["control_channel"])

    @property
    def status(self) -> str:
        status = self._subscriber.state.value
        return f"{status} to a replica" if self._is_one_way else status

    async def start(self, channels: AbstractSet[str]) -> None:
        self._subscriber.start(channels)
        await self._subscriber.tried.wait()
        for lane in self._lanes:
            lane.start()
        await self._lanes[0].tried.wait()

    async def listen(self, channels: AbstractSet[str]) -> None:
        await self._subscriber.listen(channels)

    def reply_address(self, options: Mapping[str, Any]) -> str:
        channel = options.get("feedback_channel")
        if (
            not isinstance(channel, str)
            or not 1 <= len(channel) <= LONGEST_CHANNEL
            or re.search("[\ud800-\udfff]", channel)
        ):
            raise NoReplyAddress(
                "options.feedback_channel must be a string of 1 to "
                f"{LONGEST_CHANNEL} characters"
            )
        return channel

    def send(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        size = sum(map(len, messages))
        small, _ = self._lanes
        small.send(Answer(address, lambda: messages, size, ref))

    async def send_large(
        self, address: str, encode: Encode, size: int, ref: Optional[str]
    ) -> None:
        small, large = self._lanes
        answer = Answer(address, encode, size, ref, small.outbox.last)
        large.send(answer)
        await wait_for_any(answer.settled, self._released)

    def hold_nobody(self) -> None:
        if not self._released.done():
            self._released.set_result(None)

    async def stop_listening(self) -> None:
        await self._subscriber.stop()

    async def stop(self, timeout: float) -> None:
        await self.stop_listening()
        for _ in range(LEAVING):
            published = [lane.published for lane in self._lanes]
            last = [ln.outbox.last for ln in self._lanes if ln.outbox.last]
            if last:
                await asyncio.wait(last, timeout=timeout)
            if published == [lane.published for lane in self._lanes]:
                break
        for lane in self._lanes:
            await lane.stop()

    # What the parts call.

    async def _connect(self) -> Link:
        """A link that publishes, to the server to which we are subscribed."""
        link = await Link.open(
            self._dial, ignore, self._within, self._subscriber.address
        )
        database = self.options.get("db", 0)
        if not database:
            return link
        try:
            reply = await link.ask("SELECT", database, timeout=self._within)
        except (LinkError, asyncio.CancelledError):
            await link.close("it was not needed any more")
            raise
        if isinstance(reply, ResponseError):
            text = (
                f"Redis has no database {database} ({reply}); pub/sub does "
                "not depend on it"
            )
            self._say("database", True, journal.BACKEND_NOTE, text)
        return link

    async def _identify(self, link: Link) -> None:
        """Ask the server again what it is."""
        address = self._subscriber.address
        if address and link.ends and link.ends[1][0] != address:
            # The name stands for several; this one need not be the same.
            await link.close("it goes to another address of the server")
        else:
            self._subscriber.identified(await identify(link, self._within))

    def _on_message(self, channel: str, body: bytes) -> None:
        believed = _BELIEVED * self._interval
        is_own = self._subscriber.server.is_own(believed)
        self.receive(Arrival(self, channel, body, is_own, self._is_one_way))

    @property
    def _is_one_way(self) -> bool:
        """Whether answers reach only the clients of the server itself."""
        return self._subscriber.server.is_replica and not self.options.get(
            "allow_replica"
        )

    def _on_subscriber(self) -> None:
        subscriber = self._subscriber
        where = describe_server(self.options)
        if subscriber.state is State.UP:
            channels = ", ".join(sorted(subscriber.channels))
            text = f"subscribed at {where}: {channels}"
            self._say("link", State.UP, journal.BACKEND_UP, text)
            for lane in self._lanes:
                lane.retry()
        elif subscriber.state is State.AWAY:
            # Once for an outage, and for each reason that does not pass.
            is_new = self._said["link"] in (None, State.UP)
            if is_new or subscriber.is_refused:
                text = f"{where} is away: {subscriber.reason}"
                self._say(
                    "link", subscriber.reason, journal.BACKEND_DOWN, text
                )
        text = (
            "Redis is a replica: only this node's own requests are taken, as "
            "answers reach no client of its master ('allow_replica: yes' "
            "takes all)"
            if self._is_one_way
            else "Redis is no replica any more: all requests are taken"
        )
        self._say("replica", self._is_one_way, journal.BACKEND_NOTE, text)

    def _on_lanes(self) -> None:
        for lane, what in zip(self._lanes, ("answers", "large answers")):
            is_away = lane.state is State.AWAY
            if is_away and self._subscriber.state is State.UP:
                text = f"{what} cannot be sent: {lane.reason}"
                self._say(what, State.AWAY, journal.BACKEND_DOWN, text)
            elif lane.state is State.UP:
                text = f"{what} can be sent again, {len(lane)} were kept"
                self._say(what, State.UP, journal.BACKEND_UP, text)
        refusals = {lane.publisher.refusal for lane in self._lanes} - {""}
        refusal = min(refusals, default="")
        text = (
            "answers leave at most once, as Redis refuses the script that "
            f"publishes them exactly once: {refusal}"
            if refusal
            else "answers leave exactly once again"
        )
        self._say("script", refusal, journal.BACKEND_NOTE, text)

    def _say(
        self, topic: str, what: object, kind: journal.Kind, text: str
    ) -> None:
        """Record what is new."""
        if self._said[topic] != what:
            self._said[topic] = what
            journal.record(
                kind, f"backend {self.name}: {text}", backend=self.name
            )
