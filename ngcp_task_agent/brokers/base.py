"""The interface of a broker, which does the work of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    ClassVar,
    Mapping,
    NamedTuple,
    Optional,
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
    :ivar unused: that the work could make nothing of the request's data
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


class Broker(ABC):
    """Does the work of one task.

    A task's ``broker`` selects the class: from the table in
    ``ngcp_task_agent.brokers``, or from the entry points of that group.

    :param options: a task's ``broker_options``, valid against the schema
    """

    #: JSON Schema (an object) of a task's ``broker_options``; for the formats
    #: of files and secrets, see ``backends/base.py``
    options_schema: ClassVar[Mapping[str, Any]]

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @property
    def has_live_output(self) -> bool:
        """Whether the work calls what it gets by ``Work.on_output()``."""
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

    def start(self, folder: Path) -> None:  # noqa: B027 (optional)
        """Make ready for requests: the task takes effect.

        Called in the event loop of the agent, not of ``--check`` or a client.
        Must not block.

        :param folder: the agent's configuration
        """

    def data(self, request: Request) -> Any:
        """Return a request's data as the work gets it, for ``data_schema``."""
        return request.data

    @abstractmethod
    def prepare(self, request: Request) -> Work:
        """Return the work for a request.  Must not block.

        :raises Rejected: when the request asks for something not allowed
        """
