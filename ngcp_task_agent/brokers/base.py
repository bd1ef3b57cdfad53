"""The interface of a broker, which does the work of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    AsyncIterator,
    ClassVar,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Union,
)

from ngcp_task_agent.process.users import User
from ngcp_task_agent.protocol.messages import Request


class Program(NamedTuple):
    """A program that work runs.

    :ivar run: an absolute path, or a name that is looked up in
        ``process.users.PATH``
    :ivar user: the user that it runs as
    """

    run: str
    user: User


@dataclass(frozen=True)
class Result:
    """How a piece of work ended.

    :ivar data: the output as text, or as UTF-8 bytes; invalid bytes are
        replaced
    :ivar error: why it failed, for the journal and the client: a sentence
        without secrets; empty for success
    :ivar detail: what the work itself reports, such as a last line on
        standard error; only its start is logged and sent
    :ivar exit_status: the command's, if there was one
    :ivar by_itself: that it ended for another reason than stop().  Unless this
        is set, a failure after stop() was caused by it.
    """

    data: Union[str, bytes] = ""
    error: str = ""
    detail: str = ""
    exit_status: Optional[int] = None
    by_itself: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.data, (str, bytes)):
            raise TypeError(f"data is str or bytes, not {self.data!r}")
        for text in (self.error, self.detail):
            if not isinstance(text, str):
                raise TypeError(f"error and detail are str, not {text!r}")


class Work(ABC):
    """The work for one request, to be run once."""

    @property
    def pid(self) -> Optional[int]:
        """The process that does it now, if there is one."""
        return None

    @abstractmethod
    async def run(self) -> Result:
        """Do the work."""

    @abstractmethod
    def stop(self) -> None:
        """Make run() end soon; called before or while it runs."""


class TaskFacts(NamedTuple):
    """A task, as requesters may know it.

    :ivar extra_args: whether requests may add words to a command line
    :ivar timeout: seconds that the work may take; 0 without end, None if the
        broker does not say
    :ivar running: how many requests run now
    :ivar queued: how many wait now
    """

    name: str
    description: str
    broker: str
    data_schema: Optional[Mapping[str, Any]]
    extra_args: bool
    timeout: Optional[float]
    max_running: int
    running: int
    queued: int


class JobFacts(NamedTuple):
    """A request that waits or runs.

    :ivar state: ``running`` or ``queued``
    :ivar since: when it got into this state; unix time
    :ivar pid: its process, if there is one
    """

    uuid: str
    task: str
    src: str
    state: str
    since: float
    pid: Optional[int]


class AgentView(Protocol):
    """What a broker sees of the agent.

    Of tasks and jobs, those of its task's backend and control channel: rights
    are given for channels.  The agent's own tasks, which take no slot, are
    left out.
    """

    @property
    def folder(self) -> Path:
        """The agent's configuration."""

    @property
    def uptime(self) -> float:
        """Seconds since the agent has started."""

    def node(self) -> Mapping[str, Any]:
        """Return what the node is now: ``name``, ``aliases``, ``roles``,
        ``state``, ``status`` and ``labels``.
        """

    def tasks(self) -> AsyncIterator[TaskFacts]:
        """Iterate over the tasks; others run meanwhile."""

    def jobs(self) -> AsyncIterator[JobFacts]:
        """Iterate over the jobs; others run meanwhile."""

    async def cancel(self, uuid: str, by: str) -> bool:
        """Cancel the job of a request, and wait until it has ended.

        :param by: who wants it, for the job's client
        :returns: whether there was one
        :raises CannotCancel: when it does not end
        """


class Broker(ABC):
    """Does the work of one task.

    A task's ``broker`` selects the class: from the table in
    ``ngcp_task_agent.brokers``, or from the entry points of that group.

    :param options: a task's ``broker_options``, valid against the schema
    """

    #: JSON Schema (an object) of a task's ``broker_options``; for the formats
    #: of files and secrets, see ``backends/base.py``
    options_schema: ClassVar[Mapping[str, Any]]
    #: whether the work counts for ``max_running`` of the agent
    takes_slot: ClassVar[bool] = True
    #: seconds that the work may take; 0 without end, None if unknown
    timeout: Optional[float] = None
    #: whether a request may add words to a command line
    takes_extra_args: bool = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def programs(self) -> Mapping[str, Program]:
        """Return the programs that the work runs, by option.

        Called while a configuration is loaded; may block.  It is a fault if
        others than root can change what runs as root.
        """
        return {}

    def problems(self) -> Mapping[str, str]:
        """Find what would make the work fail now.

        Called by ``--check``; may block.

        :returns: a warning, by option
        """
        return {}

    def start(self, agent: AgentView) -> None:  # noqa: B027 (optional)
        """Make ready for requests: the task takes effect.

        Called in the event loop of the agent, not of ``--check`` or a client.
        Must not block.

        :param agent: what the broker may know of it
        """

    def data(self, request: Request) -> Any:
        """Return a request's data as the work gets it, for ``data_schema``."""
        return request.data

    @abstractmethod
    def prepare(self, request: Request) -> Work:
        """Return the work for a request.  Must not block.

        :raises Rejected: when the request asks for something not allowed
        """
