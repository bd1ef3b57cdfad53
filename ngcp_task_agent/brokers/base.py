"""The interface of a broker, which does the work of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    ClassVar,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Tuple,
    Union,
)

from ngcp_task_agent.process.users import User
from ngcp_task_agent.protocol.identity import Identity
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
    :ivar unused: that the work could not use the request's data
    """

    data: Union[str, bytes] = ""
    error: str = ""
    detail: str = ""
    exit_status: Optional[int] = None
    by_itself: bool = field(default=False, compare=False)
    unused: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.data, (str, bytes)):
            raise TypeError(f"data is str or bytes, not {self.data!r}")
        for text in (self.error, self.detail):
            if not isinstance(text, str):
                raise TypeError(f"error and detail are str, not {text!r}")


# Takes the name of a stream, ``stdout`` or ``stderr``, and bytes; ``b""`` is
# the end of that stream.
OnOutput = Callable[[str, bytes], None]


class Work(ABC):
    """The work for one request, to be run once."""

    @property
    def pid(self) -> Optional[int]:
        """The process that does it now, if there is one."""
        return None

    def on_output(self, take: OnOutput) -> None:  # noqa: B027 (optional)
        """Call ``take`` with what the work writes, as it comes.

        Called before run(), if the task has ``live_output`` and its client
        asks for it.
        """

    @abstractmethod
    async def run(self) -> Result:
        """Do the work."""

    @abstractmethod
    def stop(self) -> None:
        """Make run() end soon; called before or while it runs."""


class TaskView(NamedTuple):
    """What is said of a task that clients can ask for.

    :ivar data_schema: None for any data
    :ivar extra_args: whether requests may add words to a command
    :ivar timeout: seconds that the work may take, 0 for no limit; None if the
        broker does not say
    """

    name: str
    description: str
    broker: str
    data_schema: Any
    extra_args: bool
    timeout: Optional[float]
    max_running: int
    running: int
    queued: int


class JobView(NamedTuple):
    """What is said of a request that waits or runs.

    :ivar state: ``queued`` or ``running``
    :ivar since: when that began, unix time
    :ivar pid: of the process that does the work now, if there is one
    """

    uuid: str
    task: str
    src: str
    state: str
    since: float
    pid: Optional[int]


class AgentView(Protocol):
    """What a task's broker may see of the agent.

    Tasks and jobs are those of the task's own backend and control channel,
    and without tasks that take no slot.

    :ivar folder: the agent's configuration
    """

    folder: Path
    version: str

    @property
    def uptime(self) -> float:
        """Seconds since the agent started."""

    @property
    def generation(self) -> int:
        """Another one after each reload."""

    def identity(self) -> Identity:
        """Return who this node is now."""

    def counts(self) -> Tuple[int, int]:
        """Return how many jobs run and how many wait."""

    def tasks(self) -> Iterable[TaskView]:
        """Return the tasks, made while they are read."""

    def jobs(self) -> Iterable[JobView]:
        """Return the jobs in order, made while they are read."""

    async def cancel(self, uuid: str, by: str) -> int:
        """Cancel the jobs of a request; return how many that has ended.

        Returns once they have ended.

        :param by: who wants it, for the job's client
        :raises TimeoutError: when the work does not end
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

    #: Whether the work counts among the agent's ``max_running``.  Where it
    #: does not, it must be short and small, and is not listed among the jobs.
    takes_slot: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @property
    def has_live_output(self) -> bool:
        """Whether the work calls what it gets by ``Work.on_output()``."""
        return False

    @property
    def timeout(self) -> Optional[float]:
        """Seconds that the work may take, 0 for no limit; None: unknown."""
        return None

    @property
    def takes_extra_args(self) -> bool:
        """Whether requests may add words to a command."""
        return False

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

        :param agent: what it may see of the agent, also later
        """

    def data(self, request: Request) -> Any:
        """Return a request's data as the work gets it, for ``data_schema``."""
        return request.data

    @abstractmethod
    def prepare(self, request: Request) -> Work:
        """Return the work for a request.  Must not block.

        :raises Rejected: when the request asks for something not allowed
        """
