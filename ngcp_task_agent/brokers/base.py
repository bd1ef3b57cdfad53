"""The interface of a broker: how work is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Mapping, Optional, Union

from ngcp_task_agent.protocol.messages import Request


@dataclass(frozen=True)
class Result:
    """How a piece of work ended.

    :ivar data: the output as text, or in bytes of UTF-8, where what is none
        is replaced
    :ivar error: why it failed, a sentence without anything secret, for the
        journal and the client; empty for success
    :ivar detail: what the work itself said of it, for the client alone
    :ivar exit_status: of the command, where there was one
    """

    data: Union[str, bytes] = ""
    error: str = ""
    detail: str = ""
    exit_status: Optional[int] = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, (str, bytes)):
            raise TypeError(f"data is str or bytes, not {self.data!r}")
        for text in (self.error, self.detail):
            if not isinstance(text, str):
                raise TypeError(f"error and detail are str, not {text!r}")


class Work(ABC):
    """What one request asks for, ready to be done, once."""

    @abstractmethod
    async def run(self) -> Result:
        """Do it."""

    @abstractmethod
    def stop(self) -> None:
        """Make run() end soon, before or while it runs."""


class Broker(ABC):
    """Does the work of one task.

    A class is found by its name: in the table of
    ``ngcp_task_agent.brokers``, or as an entry point of that group.

    :param options: a task's ``broker_options``, which satisfy the schema
    """

    #: JSON Schema (an object) of a task's ``broker_options``
    options_schema: ClassVar[Mapping[str, Any]]

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def problems(self) -> Mapping[str, str]:
        """What will keep the work from being done, as things stand.

        Called when a configuration is read, where blocking is allowed.

        :returns: texts by the key of the option that each is about; they
            become warnings in the journal
        """
        return {}

    def data(self, request: Request) -> Any:
        """A request's data as the work sees it, for the task's schema."""
        return request.data

    @abstractmethod
    def prepare(self, request: Request) -> Work:
        """The work for a request.  Does not block.

        :raises Rejected: where the request asks for what is not allowed
        """
