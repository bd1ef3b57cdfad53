"""How ngcp-task-agentctl can fail."""

from __future__ import annotations

from ngcp_task_agent.errors import AgentError

FAILED = 1
EX_USAGE = 2
EX_SOFTWARE = 70  # these from sysexits.h
EX_IOERR = 74
EX_NOPERM = 77
EX_CONFIG = 78
BY_SIGNAL = 128  # plus the signal's number, as in shells


class Failure(AgentError):
    """The command has failed; the text says why, and what to do.

    :ivar status: the exit status
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class OutputError(Exception):
    """Standard output cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror or error}")
        #: Whether its reader has gone.
        self.is_closed = isinstance(error, BrokenPipeError)
