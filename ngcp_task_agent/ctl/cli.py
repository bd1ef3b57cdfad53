"""ngcp-task-agentctl, see ngcp-task-agentctl(1)."""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
from typing import Callable, Dict, List, Optional

from ngcp_task_agent.ctl import agent, arguments, output
from ngcp_task_agent.ctl.check import check
from ngcp_task_agent.ctl.failure import (
    BY_SIGNAL,
    EX_IOERR,
    EX_SOFTWARE,
    Failure,
    OutputError,
)
from ngcp_task_agent.ctl.log import log

_COMMANDS: Dict[str, Callable[[argparse.Namespace], int]] = {
    "status": agent.status,
    "tasks": agent.tasks,
    "jobs": agent.jobs,
    "cancel": agent.cancel,
    "reload": agent.reload,
    "check": check,
    "log": log,
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; return the exit status, see failure.py."""
    out, err = io.StringIO(), io.StringIO()
    try:
        # argparse ignores errors of writing.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            options = arguments.parse(argv)
    except SystemExit as end:
        output.write_error(err.getvalue())
        return _guard(lambda: _show(out.getvalue())) or int(end.code or 0)
    return _guard(lambda: _COMMANDS[options.command](options))


def _show(shown: str) -> int:
    """Write the help or the version, if requested."""
    if shown:
        output.write(shown)
    return 0


def _guard(act: Callable[[], int]) -> int:
    """Call a function; return its exit status, or that of its error."""
    try:
        return act()
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except OutputError as error:
        if error.is_closed:
            return BY_SIGNAL + signal.SIGPIPE
        output.say(str(error))
        return EX_IOERR
    except Failure as failure:
        output.say(str(failure))
        return failure.status
    except Exception as error:
        output.say(f"a bug: {error!r}")
        return EX_SOFTWARE
