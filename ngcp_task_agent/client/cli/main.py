"""ngcp-invoke-task: run a task from a shell, see ngcp-invoke-task(1)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
import time
from typing import Callable, List, NoReturn, Optional, Type

from ngcp_task_agent import display
from ngcp_task_agent.client import requests
from ngcp_task_agent.client.cli import arguments, report
from ngcp_task_agent.client.cli.action import Action
from ngcp_task_agent.client.cli.data import read_data
from ngcp_task_agent.client.cli.exit_status import (
    BY_SIGNAL,
    EX_IOERR,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    EX_USAGE,
    SIGNALS,
)
from ngcp_task_agent.client.cli.report import PROGRAM, Say
from ngcp_task_agent.client.cli.writer import WriteError, Writer
from ngcp_task_agent.client.discovery import find
from ngcp_task_agent.client.errors import ClientError, RedisUnavailable
from ngcp_task_agent.client.waiting import TIMEOUT
from ngcp_task_agent.logs.lines import printable

_MOST_NOTES = 5
_MOMENT = 1.0  # seconds


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command; return the exit status."""
    begin, timeout = time.monotonic(), TIMEOUT
    out, err = io.StringIO(), io.StringIO()
    try:
        # argparse ignores errors of writing.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            options = arguments.parse(argv)
    except SystemExit as end:
        report.stderr().write(err.getvalue())
        status = _guard(lambda: _show(out.getvalue()), report.say)
        status = status or int(end.code or 0)
    else:
        timeout = options.reader_timeout
        say = report.say_nothing if options.quiet else report.say
        if options.verbose:
            logging.basicConfig(stream=report.stderr(), format="%(message)s")
        else:
            logging.disable()
        status = _guard(lambda: _act(options, say), say)
    # An interrupted command does not wait for its messages to be read.
    left = begin + timeout - time.monotonic() if status < BY_SIGNAL else 0.0
    with contextlib.suppress(KeyboardInterrupt):
        report.stderr().wait(max(_MOMENT, left))
    return status


def _guard(act: Callable[[], int], say: Say) -> int:
    """Call a function; return its exit status, or that of its error."""
    try:
        return act()
    except KeyboardInterrupt:
        # Before the request was sent, or after everything was reported.
        return BY_SIGNAL + signal.SIGINT
    except WriteError as error:
        if error.is_closed:
            return BY_SIGNAL + signal.SIGPIPE
        say(str(error))
        return EX_IOERR
    except ClientError as error:
        say(printable(str(error)))
        unavailable = isinstance(error, RedisUnavailable)
        return EX_UNAVAILABLE if unavailable else EX_USAGE
    except Exception as error:
        report.say(f"a bug: {printable(repr(error))}")
        return EX_SOFTWARE


def _show(shown: str) -> int:
    """Write the help or the version, if requested."""
    if shown:
        stdout = Writer(sys.stdout)
        stdout.put(shown, display.encode_as_it_is)
        stdout.wait(TIMEOUT)
        stdout.check()
    return 0


def _act(options: argparse.Namespace, say: Say) -> int:
    if options.data is not None:
        options.data = read_data(options.data, options.reader_timeout)
    if options.channel is not None:
        requests.check_channel(options.channel)
    address = find(
        options.task,
        backend=options.backend,
        channel=options.channel,
        url=options.url,
        config_dir=options.config_dir,
    )
    action = _choose(options)(options, address, say)
    # Report wrong usage even if Redis is down.
    task, data = action.request()
    requests.OutgoingRequest(task, address.src, options.dst, data).encode(
        PROGRAM
    )
    notes = [address.warning]
    if options.verbose:
        notes = [*address.notes, str(address)]
    for note in [requests.explain_numbers(options.dst), *notes]:
        if note:
            say(printable(note))
    # asyncio.run() would wait for name lookups that are still running.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(action.run())
    except RedisUnavailable:
        if address.assumed and not options.verbose:
            for note in address.notes[:_MOST_NOTES]:
                if note != address.warning:
                    say(printable(note))
        raise
    finally:
        # A late signal would be written to a pipe that the loop has closed.
        signal.set_wakeup_fd(-1)
        loop.close()


def _choose(options: argparse.Namespace) -> Type[Action]:
    # Imported here: a call that runs a task loads none of the others.
    if options.task is None:
        from ngcp_task_agent.client.cli.built_in import BuiltIn

        return BuiltIn
    if options.batch is not None or options.limit is not None:
        from ngcp_task_agent.client.cli.rolling import Rolling

        return Rolling
    from ngcp_task_agent.client.cli.invocation import Invocation

    return Invocation


def end(status: int) -> NoReturn:
    """End the process, which must have written all its output.

    At Ctrl-C, a shell leaves its loop only if the signal has ended the command
    that ran in it: the exit status that stands for the signal is not enough.
    """
    for number in SIGNALS:
        if status == BY_SIGNAL + number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
    # sys.exit() would wait for name lookups that are still running.
    os._exit(status)
