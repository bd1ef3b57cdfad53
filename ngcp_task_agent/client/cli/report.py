"""What goes to standard error: how it goes, for people."""

from __future__ import annotations

import functools
import os
import stat
import sys
from typing import ClassVar

from ngcp_task_agent.client.call import Call
from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.writer import Writer
from ngcp_task_agent.client.outcome import Outcome
from ngcp_task_agent.client.responses import Response, Status

PROGRAM = "ngcp-invoke-task"


@functools.cache
def stderr() -> Writer:
    """Standard error: whoever reads it slowly holds up nothing."""
    return Writer(sys.stderr)


class Stderr:
    """The same, for what writes to a file."""

    def __init__(self) -> None:
        self.encoding = getattr(sys.stderr, "encoding", None) or "ascii"

    def write(self, text: str) -> None:
        """Never fails."""
        try:
            stderr().put(text, self._encode)
        except OSError:
            pass  # there is nobody to tell

    def flush(self) -> None:
        """Nothing is kept here."""

    def _encode(self, text: str) -> bytes:
        return text.encode(self.encoding, "backslashreplace")


def say(line: str) -> None:
    """Write a line to standard error; never fails."""
    Stderr().write(f"{PROGRAM}: {line}\n")


class View:
    """Shows nothing; the others build on it.

    :cvar is_live: draws on the terminal until the end
    """

    is_live: ClassVar[bool] = False

    def start(self, call: Call) -> None:
        """The request is about to be sent."""

    def response(self, response: Response) -> None:
        """A response has come."""

    async def end(self) -> None:
        """Nothing more will come."""

    def problems(self, outcome: Outcome) -> None:
        """What went wrong besides what the nodes have said."""
        for problem in text.of_problems(outcome):
            say(problem)


class Quiet(View):
    """Leaves it to the exit status."""

    def problems(self, outcome: Outcome) -> None:
        pass


class Lines(View):
    """A line for each node that rejects or fails, or for each response.

    :param verbose: for each response
    """

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose

    def response(self, response: Response) -> None:
        failed = response.status in (Status.REJECTED, Status.ERROR)
        if failed or self._verbose:
            say(text.of_response(response))


def is_terminal() -> bool:
    """Whether standard error is a terminal that can show a live view."""
    return (
        sys.stderr is not None
        and sys.stderr.isatty()
        and os.environ.get("TERM", "dumb") not in ("", "dumb")
    )


def is_piped() -> bool:
    """Whether another program reads standard output.

    What that one shows on the same terminal a live view would draw over.
    """
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (AttributeError, OSError):
        return False  # it is closed
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def choose(quiet: bool, verbose: bool) -> View:
    """The view for this standard error."""
    if quiet:
        return Quiet()
    if is_terminal() and not is_piped():
        try:
            # Only here: it takes longer to load than a task to run.
            from ngcp_task_agent.client.cli.live import LiveView
        except ImportError:
            return Lines(True)
        return LiveView()
    return Lines(verbose)
