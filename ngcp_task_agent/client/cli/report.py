"""Standard error: messages for people, line by line."""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import AsyncIterator, Callable, ClassVar

from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.writer import WriteError, Writer
from ngcp_task_agent.client.responses import ReceivedResponse, Status

PROGRAM = "ngcp-invoke-task"

Say = Callable[[str], None]


class Stderr(Writer):
    """Standard error, which libraries can use as a file."""

    encoding = getattr(sys.stderr, "encoding", None) or "ascii"

    def write(self, text: str) -> None:
        """Never fails, and never waits for the reader."""
        with contextlib.suppress(WriteError):
            self.put(text, self._encode)

    def flush(self) -> None:
        """Nothing is buffered."""

    def _encode(self, text: str) -> bytes:
        return text.encode(self.encoding, "backslashreplace")


@functools.cache
def stderr() -> Stderr:
    return Stderr(sys.stderr)


def say(line: str) -> None:
    """Write a line to standard error; never fails."""
    stderr().write(f"{PROGRAM}: {line}\n")


def say_nothing(line: str) -> None:
    """For --quiet."""


class View:
    """Shows a line for each node that rejects or fails, or for each response.

    :param verbose: show each response
    :cvar is_live: draws on the terminal until the end
    :ivar backlog: how many characters show() has kept until it draws
    """

    is_live: ClassVar[bool] = False
    backlog = 0

    def __init__(self, say: Say, verbose: bool) -> None:
        self._say = say
        self._verbose = verbose

    @contextlib.asynccontextmanager
    async def follow(self, call: Call) -> AsyncIterator[None]:
        """Show the call while it is iterated over."""
        yield

    def show(self, output: str) -> None:
        """Show output of tasks, if ``is_live``."""

    def response(self, response: ReceivedResponse) -> None:
        """Report a response."""
        failed = response.status in (Status.REJECTED, Status.ERROR)
        if failed or self._verbose:
            self._say(text.of_response(response))
