"""Client: sends requests and follows their answers, over one connection."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Union
from weakref import WeakValueDictionary

from ngcp_task_agent.backends.redis.dial import dial_like
from ngcp_task_agent.client import fleet
from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.discovery import Address, find
from ngcp_task_agent.client.endpoint import Endpoint
from ngcp_task_agent.client.fleet import FleetJob, FleetNode, FleetTask
from ngcp_task_agent.client.inbox import Inbox
from ngcp_task_agent.client.outcome import RequestOutcome, Tally
from ngcp_task_agent.client.progress import LiveFeed, LiveLines
from ngcp_task_agent.client.requests import OutgoingRequest, check_channel
from ngcp_task_agent.client.responses import Message
from ngcp_task_agent.client.session import Session
from ngcp_task_agent.client.waiting import Patience
from ngcp_task_agent.config.loader import DEFAULT_DIR
from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.messages import new_uuid

if TYPE_CHECKING:
    # Loads all of redis-py, of which a call uses only the connections.
    from redis.asyncio import Redis

    from ngcp_task_agent.client.batches import Batches

MAX_DATA = 512 << 20  # bytes: twice 50 MB, four bytes for each character
CONNECT_TIMEOUT = 5.0  # seconds

_PING_INTERVAL = 10.0  # seconds
_PATIENCE = Patience()
_NOT_OPEN = RuntimeError("use 'async with Client() as client'")


class Client:
    """Runs tasks on the nodes that listen on a control channel.

    ``async with Client() as client`` connects, and disconnects at the end.
    Any number of requests can be under way at once.

    :param address: where to send requests; by default what find() returns, or
        ``Address()`` if ``redis`` is given
    :param connect_timeout: seconds
    :param ping_interval: seconds; a server that is silent for two of them is
        lost
    :param max_data: bytes of memory for the answers to one request: up to four
        for each character of a text with rare characters
    :param redis: a redis.asyncio.Redis without decode_responses, whose server
        is used instead of the address's, such as one from fakeredis in tests
    :ivar feedback_channel: where this client receives answers
    """

    def __init__(
        self,
        address: Optional[Address] = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        ping_interval: float = _PING_INTERVAL,
        max_data: int = MAX_DATA,
        redis: Optional[Redis[Any]] = None,
    ) -> None:
        """
        :raises TypeError: for a ``redis`` that cannot be used
        """
        self.feedback_channel = _channel()
        self._address = address
        self._endpoint: Optional[Endpoint] = None
        if redis is not None:
            self._endpoint = Endpoint("the given client", dial_like(redis))
        self._connect_timeout = connect_timeout
        self._ping_interval = ping_interval
        self._max_data = max_data
        self._session: Optional[Session] = None
        # It holds bytes, which take less memory than text.
        self._inbox = Inbox(self._deliver, max_data // 2)
        self._feeds: List[LiveFeed] = []
        # Weak: an abandoned call collects no more answers.
        self._calls: WeakValueDictionary[str, Call] = WeakValueDictionary()

    async def __aenter__(self) -> Client:
        """
        :raises NoAddress: when the configuration does not give an address
        :raises RedisUnavailable: when Redis cannot be reached
        """
        if self._address is None:
            where = find if self._endpoint is None else Address
            self._address = await asyncio.to_thread(where)
        if self._endpoint is None:
            self._endpoint = Endpoint.of(self._address)
        session = Session(
            self._endpoint,
            self.feedback_channel,
            self._inbox.put,
            self._ping_interval,
        )
        await session.open(self._connect_timeout)
        self._session = session
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()
        for feed in self._feeds:
            await feed.close()
        await self._inbox.close()

    def send(
        self,
        task: str,
        dst: str = "localhost",
        data: Any = None,
        *,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
        options: Optional[Mapping[str, Any]] = None,
        live: bool = False,
    ) -> Call:
        """Run a task: iterate over the result to get the responses.

        The request is sent when the iteration begins.

        :param channel: another control channel than the address's
        :param options: more options for the backends
        :param live: ask for the output while the tasks run, see Call.lines()
        :raises InvalidRequest: when it cannot be sent
        """
        if not self._address:
            raise _NOT_OPEN
        return self._call(
            task,
            dst,
            data,
            patience,
            self._address.channel if channel is None else channel,
            options,
            live=live,
        )

    async def run(
        self,
        task: str,
        dst: str = "localhost",
        data: Any = None,
        *,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
        options: Optional[Mapping[str, Any]] = None,
    ) -> RequestOutcome:
        """Run a task and wait until it has ended; arguments as for send().

        :raises InvalidRequest: when it cannot be sent
        :raises RedisUnavailable: when it was not sent, or when the answers
            cannot be received (ConnectionLost)
        """
        call = self.send(
            task,
            dst,
            data,
            patience=patience,
            channel=channel,
            options=options,
        )
        return await _outcome(call)

    async def nodes(
        self,
        dst: str = "*",
        *,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
    ) -> List[FleetNode]:
        """Return the nodes that answer, those of older agents included.

        :param dst: and patience, channel: as for run(); so are the errors
        """
        return fleet.nodes_of(
            await self.run(fleet.PING, dst, patience=patience, channel=channel)
        )

    async def tasks(
        self,
        dst: str = "*",
        *,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
    ) -> List[FleetTask]:
        """Return the tasks that nodes have; arguments as for nodes()."""
        return fleet.tasks_of(
            await self.run(
                fleet.DESCRIBE, dst, patience=patience, channel=channel
            )
        )

    async def jobs(
        self,
        dst: str = "*",
        *,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
    ) -> List[FleetJob]:
        """Return requests that run or wait; arguments as for nodes()."""
        return fleet.jobs_of(
            await self.run(fleet.JOBS, dst, patience=patience, channel=channel)
        )

    async def cancel(
        self,
        uuid: str,
        dst: str = "*",
        *,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
    ) -> List[str]:
        """End a request that runs or waits, by its ``uuid``.

        :returns: the names of the nodes that have ended it; empty if none had
            it
        :raises ClientError: as run()
        """
        return fleet.cancelled_on(
            await self.run(
                fleet.CANCEL,
                dst,
                {"ref": uuid},
                patience=patience,
                channel=channel,
            )
        )

    def batches(
        self,
        task: str,
        dst: str = "*",
        data: Any = None,
        *,
        size: Union[int, str] = 1,
        max_failures: int = 0,
        pause: float = 0.0,
        limit: Optional[int] = None,
        patience: Patience = _PATIENCE,
        channel: Optional[str] = None,
        options: Optional[Mapping[str, Any]] = None,
    ) -> Batches:
        """Run a task on a few nodes at a time: iterate over the result.

        Each iteration runs it on the next nodes, and returns their outcome.
        The nodes are those that answer a ping when the iteration begins.  It
        ends early, after more than ``max_failures``: nodes that end in error,
        reject, do not end or are silent, or whose name is not unique.

        ::

            batches = client.batches("reload", "prx*|state=active", size="10%")
            async for outcome in batches:
                print([node.node for node in outcome.done])
            print(batches.failures, batches.not_reached)

        ngcp_task_agent.client.batches.Batches describes these attributes and
        others, such as ``verdict``.

        :param size: how many nodes at a time, or a share of them all such as
            ``"10%"``; fewer if a request cannot name so many
        :param max_failures: stop after more failures than this
        :param pause: seconds between two batches
        :param limit: how many of the nodes at most, chosen at random
        :param patience: with each batch, without ``expect``
        :param channel: and options: as for send()
        :raises InvalidRequest: when it cannot be sent
        """
        # Imported here: a client that does not use it starts sooner.
        from ngcp_task_agent.client.batches import Batches, Pace

        def send(patience: Patience, dst: str) -> Call:
            return self.send(
                task,
                dst,
                data,
                patience=patience,
                channel=channel,
                options=options,
            )

        async def ping(patience: Patience, dst: str) -> RequestOutcome:
            return await self.run(
                fleet.PING, dst, patience=patience, channel=channel
            )

        pace = Pace(size, max_failures, pause, limit)
        return Batches(send, ping, dst, patience, pace)

    def _call(
        self,
        task: str,
        dst: str,
        data: Any,
        patience: Patience,
        channel: str,
        options: Optional[Mapping[str, Any]],
        *,
        live: bool = False,
        is_question: bool = False,
    ) -> Call:
        """Make a call.

        :param live: with live output
        :param is_question: another call makes it; it asks nothing itself
        """
        if not self._session or not self._address:
            raise _NOT_OPEN
        check_channel(channel)
        request = OutgoingRequest(
            task,
            self._address.src,
            dst,
            data,
            {} if options is None else options,
        )
        progress_channel = _channel() if live else ""
        body = request.encode(self.feedback_channel, progress_channel)
        feed = None
        if live:
            feed = self._feed(self._session, request, progress_channel)
        call = Call(
            request,
            patience,
            Tally(self._max_data, destination.parse(dst).names),
            partial(self._session.publish, channel, body),
            self._session.lost,
            self._inbox.drain,
            self._address.task_timeout(task),
            None if is_question else partial(self._ask, channel),
            feed,
        )
        self._calls[request.uuid] = call
        return call

    def _feed(
        self, session: Session, request: OutgoingRequest, channel: str
    ) -> LiveFeed:
        """Make the live output of a request.

        In a session of its own: Redis drops one that takes too much.
        """
        lines = LiveLines(request.uuid)
        feed = LiveFeed(lines, session.beside(channel, lines.take))
        self._feeds = [f for f in self._feeds if not f.is_closed]
        self._feeds.append(feed)
        return feed

    async def _ask(
        self, channel: str, task: str, dst: str, patience: Patience
    ) -> RequestOutcome:
        call = self._call(
            task, dst, None, patience, channel, None, is_question=True
        )
        return await _outcome(call)

    def _deliver(self, message: Message) -> None:
        call = self._calls.get(message.ref)
        if call:
            call.take(message)


async def _outcome(call: Call) -> RequestOutcome:
    """Wait until a call has ended."""
    try:
        async for _ in call:
            pass
    finally:
        call.stop()
    return call.outcome


def _channel() -> str:
    """Return the name of a new channel for answers."""
    return f"ngcp-task-agent-feedback-{new_uuid()}"


def run_task(
    task: str,
    dst: str = "localhost",
    data: Any = None,
    *,
    patience: Patience = _PATIENCE,
    options: Optional[Mapping[str, Any]] = None,
    backend: Optional[str] = None,
    channel: Optional[str] = None,
    url: Optional[str] = None,
    config_dir: Union[str, Path] = DEFAULT_DIR,
    redis: Optional[Redis[Any]] = None,
) -> RequestOutcome:
    """Run a task and wait until it has ended, in a script without asyncio.

    :param patience: and options: as for Client.send()
    :param backend: and channel, url, config_dir: as for find()
    :param redis: as for Client; instead of a url
    :raises ClientError: when the request cannot be sent or followed
    :raises RuntimeError: in a running event loop, which it would block
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            "run_task() would block the running event loop: use Client"
        )
    if redis is not None and url is not None:
        raise TypeError("give redis or a url, not both")
    if channel is not None:
        check_channel(channel)
    if redis is not None:
        url = "redis://127.0.0.1"  # is not used, so no file has to name it
    address = find(
        task, backend=backend, channel=channel, url=url, config_dir=config_dir
    )
    timeout = min(CONNECT_TIMEOUT, patience.timeout or CONNECT_TIMEOUT)

    async def run() -> RequestOutcome:
        async with Client(
            address, connect_timeout=timeout, redis=redis
        ) as client:
            return await client.run(
                task, dst, data, patience=patience, options=options
            )

    return asyncio.run(run())
