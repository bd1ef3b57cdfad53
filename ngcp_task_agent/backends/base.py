"""The interface of a backend: how messages arrive and how answers leave."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import (
    AbstractSet,
    Any,
    Callable,
    ClassVar,
    Mapping,
    Optional,
    Sequence,
)


@dataclass(frozen=True)
class Arrival:
    """A message as it came from a control channel.

    :ivar via_own_server: only clients of this machine can have sent it
    :ivar one_way: answers reach only the clients of this node, and others
        than these can have sent it
    """

    backend: Backend
    channel: str
    body: bytes
    via_own_server: bool = False
    one_way: bool = False


Receiver = Callable[[Arrival], None]

# How often stop() may begin its time anew: a subscriber may take long for
# many large answers, but systemd has to know how long.
LEAVING = 6

# Not the event loop's: those can all wait for a name service.
_encoders = ThreadPoolExecutor(2, "encode")


async def in_thread(encode: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
    """Make messages in a thread; here, where there is no room for one."""
    try:
        return await asyncio.get_running_loop().run_in_executor(
            _encoders, encode
        )
    except RuntimeError:
        return encode()


class Backend(ABC):
    """Receives messages from control channels and delivers answers.

    A class is found by the name of its type: in the table of
    ``ngcp_task_agent.backends``, or as an entry point of that group.

    :param name: what tasks call it, the name of its file
    :param options: the keys of its file, which satisfy ``options_schema``
    :param receive: takes each arrival; it neither blocks nor raises
    """

    #: JSON Schema (an object) of the keys of ``backends/NAME.yml``
    options_schema: ClassVar[Mapping[str, Any]]
    #: JSON Schema (an object) of a task's ``backend_options``
    task_options_schema: ClassVar[Mapping[str, Any]]

    def __init__(
        self, name: str, options: Mapping[str, Any], receive: Receiver
    ) -> None:
        self.name = name
        self.options = options
        self.receive = receive

    @classmethod
    @abstractmethod
    def channel(cls, task_options: Mapping[str, Any]) -> str:
        """The control channel that a task's ``backend_options`` name."""

    @property
    @abstractmethod
    def status(self) -> str:
        """One word for the administrator, such as ``subscribed``."""

    @abstractmethod
    async def start(self, channels: AbstractSet[str]) -> None:
        """Begin to listen on these control channels.

        Returns when messages arrive, or when the first attempt has failed;
        then the backend goes on trying by itself.  Bounded in time.
        """

    @abstractmethod
    async def listen(self, channels: AbstractSet[str]) -> None:
        """Listen on these channels from now on.

        A channel that stays loses no message.  Returns when the new channels
        are listened to, or when that cannot be had now.  Bounded in time.
        """

    @abstractmethod
    def reply_address(self, options: Mapping[str, Any]) -> str:
        """Where a request's ``options`` want its answers.

        :raises NoReplyAddress: saying what is missing
        """

    @abstractmethod
    def send(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        """Deliver messages, in order, as soon as it can be; never waits.

        :param ref: the request's uuid, for the journal should they be lost
        """

    async def send_large(
        self,
        address: str,
        encode: Callable[[], Sequence[bytes]],
        size: int,
        ref: Optional[str],
    ) -> None:
        """Deliver a large answer.

        Its task begins nothing else in its place before this returns: so
        that few of them fill the memory, it returns when the answer has
        left, or is lost.  It is delivered also if this is cancelled.

        :param encode: makes the messages; takes long, so it is for a thread
        :param size: bytes that the answer keeps until then
        """
        encoding = asyncio.ensure_future(in_thread(encode))
        try:
            self.send(address, await asyncio.shield(encoding), ref)
        except asyncio.CancelledError:
            self.send(address, encode(), ref)
            raise

    def hold_nobody(self) -> None:  # noqa: B027
        """From now on no send_large() waits until its answer has left.

        The agent is about to stop, and its tasks have to end.
        """

    @abstractmethod
    async def stop_listening(self) -> None:
        """Take no more messages; answers still leave.  Bounded in time."""

    @abstractmethod
    async def stop(self, timeout: float) -> None:
        """Deliver what is still to be sent, then end everything.

        Can be called again while it has not returned.

        :param timeout: seconds for the delivery; as long as answers leave,
            it can begin anew, ``LEAVING`` times at most
        """
