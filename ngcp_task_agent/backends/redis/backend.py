"""The ``redis`` backend: requests and answers over Redis pub/sub."""

from __future__ import annotations

import asyncio
from typing import AbstractSet, Any, Callable, Mapping, Optional, Sequence

from ngcp_task_agent.backends.base import LEAVING, Arrival, Backend, Receiver
from ngcp_task_agent.backends.outbox import Answer, Losses
from ngcp_task_agent.backends.redis import options as keys
from ngcp_task_agent.backends.redis.dial import Dial
from ngcp_task_agent.backends.redis.lane import LARGE_RATE, Lane
from ngcp_task_agent.backends.redis.link import wait_for_any
from ngcp_task_agent.backends.redis.live_lane import LiveLane
from ngcp_task_agent.backends.redis.server import Server
from ngcp_task_agent.backends.redis.subscriber import Subscriber
from ngcp_task_agent.errors import NoReplyAddress, Rejected

Encode = Callable[[], Sequence[bytes]]


class RedisBackend(Backend):
    """Subscribes to control channels, publishes to feedback channels.

    :param dial: makes connections, instead of those to the options' server
    """

    options_schema = keys.OPTIONS
    task_options_schema = keys.TASK_OPTIONS

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        receive: Receiver,
        dial: Optional[Dial] = None,
    ) -> None:
        super().__init__(name, options, receive)
        self._server = Server(name, options, dial)
        self._subscriber = Subscriber(
            self._server, self._on_message, self._on_up
        )
        losses = Losses(name)
        self._small = Lane(self._subscriber, losses)
        self._large = Lane(self._subscriber, losses, LARGE_RATE)
        self._lanes = self._small, self._large
        self._live = LiveLane(self._subscriber)
        # Done when tasks wait no more for their large answers to leave.
        self._released = asyncio.get_running_loop().create_future()

    @classmethod
    def risks(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return keys.risks(options)

    @classmethod
    def channel(cls, task_options: Mapping[str, Any]) -> str:
        return str(task_options["control_channel"])

    @property
    def status(self) -> str:
        status = self._subscriber.state.value
        return f"{status} to a replica" if self._server.is_one_way else status

    @property
    def trouble(self) -> str:
        # The lane for large answers connects only when there is one.
        why = self._small.why
        lost = f"answers cannot be sent: {why}" if why else ""
        return self._subscriber.why or lost

    async def start(self, channels: AbstractSet[str]) -> None:
        await self._subscriber.listen(channels)
        self._subscriber.start()
        await wait_for_any(self._subscriber.tried)
        for lane in (*self._lanes, self._live):
            lane.start()
        await wait_for_any(self._small.tried)

    async def listen(self, channels: AbstractSet[str]) -> None:
        await self._subscriber.listen(channels)

    def reply_address(self, options: Mapping[str, Any]) -> str:
        channel = options.get("feedback_channel")
        if not keys.valid_channel(channel):
            raise NoReplyAddress(
                "options.feedback_channel must be a string of 1 to "
                f"{keys.LONGEST_CHANNEL} characters"
            )
        return str(channel)

    def live_address(self, options: Mapping[str, Any]) -> Optional[str]:
        if "progress_channel" not in options:
            return None
        channel = options["progress_channel"]
        if not keys.valid_channel(channel):
            raise Rejected(
                "options.progress_channel must be a string of 1 to "
                f"{keys.LONGEST_CHANNEL} characters"
            )
        return str(channel)

    def send(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        size = sum(map(len, messages))
        self._small.send(Answer(address, lambda: messages, size, ref))

    def send_rejection(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        size = sum(map(len, messages))
        answer = Answer(address, lambda: messages, size, ref)
        answer.is_rejection = True
        self._small.send(answer)

    async def send_large(
        self, address: str, encode: Encode, size: int, ref: Optional[str]
    ) -> None:
        after = self._small.outbox.last
        answer = Answer(address, encode, size, ref, after)
        self._large.send(answer)
        await wait_for_any(answer.settled, self._released)

    def expect_live(self) -> None:
        self._live.connect()

    def send_live(self, address: str, encode: Callable[[], bytes]) -> bool:
        return self._live.send(address, encode)

    async def stop_listening(self) -> None:
        if not self._released.done():
            self._released.set_result(None)
        await self._subscriber.stop()

    async def stop(self, timeout: float) -> None:
        await self.stop_listening()
        for _ in range(LEAVING):
            published = [lane.published for lane in self._lanes]
            last = {lane.outbox.last for lane in self._lanes}
            await asyncio.wait(last, timeout=timeout)
            if published == [lane.published for lane in self._lanes]:
                break
        for lane in (*self._lanes, self._live):
            await lane.stop()

    def _on_message(self, channel: str, body: bytes) -> None:
        server = self._server
        self.receive(
            Arrival(self, channel, body, server.is_own, server.is_one_way)
        )

    def _on_up(self) -> None:
        for lane in (*self._lanes, self._live):
            lane.retry()
