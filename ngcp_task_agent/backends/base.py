"""The interface of a backend: how messages arrive and how answers leave."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import (
    AbstractSet,
    Any,
    Callable,
    ClassVar,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    TypeVar,
)

_Result = TypeVar("_Result")


class Arrival(NamedTuple):
    """A message as it came from a control channel.

    :ivar via_own_server: only clients on this machine can have sent it
    :ivar one_way: other nodes' clients can have sent it, but answers reach
        only the clients of this node
    """

    backend: Backend
    channel: str
    body: bytes
    via_own_server: bool = False
    one_way: bool = False


Receiver = Callable[[Arrival], None]

# How many times stop() may restart its timeout: a subscriber may take long to
# read many large answers, but systemd must know how long.
LEAVING = 6

# Not the event loop's threads: a name service may block all of those.
_threads = ThreadPoolExecutor(4, "backend")


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """Do short work in a thread, or here if no thread can be started."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(_threads, work)
    except RuntimeError:
        return work()


class Backend(ABC):
    """Receives messages from control channels and delivers answers.

    A backend's ``type`` selects the class: from the table in
    ``ngcp_task_agent.backends``, or from the entry points of that group.

    :param name: the name of its file, by which tasks refer to it
    :param options: the keys of its file, valid against ``options_schema``
    :param receive: called with each arrival; neither blocks nor raises
    """

    #: JSON Schema (an object) of the keys of ``backends/NAME.yml``.  As root,
    #: the agent warns if other users can change a file named by a string of
    #: the format ``file``, or read a ``secret-file`` or a file with a
    #: ``secret``.
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
    def risks(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Find what is unsafe in the keys of a file.

        :returns: a warning for the journal, by option
        """
        return {}

    @classmethod
    @abstractmethod
    def channel(cls, task_options: Mapping[str, Any]) -> str:
        """Return the channel that a task's ``backend_options`` name."""

    @property
    @abstractmethod
    def status(self) -> str:
        """One word for the administrator, such as ``subscribed``."""

    @property
    def trouble(self) -> str:
        """Why it does not receive or deliver now; empty if it does."""
        return ""

    @abstractmethod
    async def start(self, channels: AbstractSet[str]) -> None:
        """Start to listen on these control channels.

        Returns once it listens, or after a failed first attempt; then it keeps
        trying in the background.  Bounded in time.
        """

    @abstractmethod
    async def listen(self, channels: AbstractSet[str]) -> None:
        """Listen on these channels from now on.

        A channel that stays loses no message.  Returns once it listens on the
        new channels, or if it cannot now.  Bounded in time.
        """

    @abstractmethod
    def reply_address(self, options: Mapping[str, Any]) -> str:
        """Return where a request's ``options`` want its answers.

        :raises NoReplyAddress: saying what is missing
        """

    @abstractmethod
    def send(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        """Deliver messages in order, as soon as possible; never waits.

        :param ref: the request's uuid, logged if the messages are lost
        """

    def send_rejection(
        self, address: str, messages: Sequence[bytes], ref: Optional[str]
    ) -> None:
        """Deliver the only answer to a request that was not accepted.

        Anyone who may publish can cause any number of these, with the uuid of
        another request.
        """
        self.send(address, messages, ref)

    async def send_large(
        self,
        address: str,
        encode: Callable[[], Sequence[bytes]],
        size: int,
        ref: Optional[str],
    ) -> None:
        """Deliver a large answer; return when it has been sent or lost.

        Until then the task starts nothing else in its place, so that few large
        answers are in memory.  If this is cancelled, the answer is still
        delivered.

        :param encode: makes the messages; slow, so it runs in a thread
        :param size: bytes of memory that the answer takes until then
        """
        encoding = asyncio.ensure_future(in_thread(encode))
        try:
            self.send(address, await asyncio.shield(encoding), ref)
        except asyncio.CancelledError:
            self.send(address, encode(), ref)
            raise

    def live_address(self, options: Mapping[str, Any]) -> Optional[str]:
        """Return where a request's ``options`` want live output.

        None if they want none, or this backend has none.

        :raises Rejected: for options that are not valid
        """
        return None

    def expect_live(self) -> None:  # noqa: B027 (optional)
        """Make ready for live output, which a task will write soon."""

    def send_live(self, address: str, encode: Callable[[], bytes]) -> bool:
        """Deliver a message of live output soon, at most once; never waits.

        It must not delay answers.  What is sent before an answer should also
        leave before it.

        :param encode: makes the message; only called if there is room
        :returns: False if there is no room now
        """
        return False

    @abstractmethod
    async def stop_listening(self) -> None:
        """Take no more messages, but keep sending answers.

        From now on send_large() does not wait, so that tasks can end.  Bounded
        in time; can be called again.
        """

    @abstractmethod
    async def stop(self, timeout: float) -> None:
        """Send what is queued, then close everything.

        Can be called again before it has returned.

        :param timeout: seconds to send; while answers are being sent, it can
            restart, ``LEAVING`` times at most
        """
