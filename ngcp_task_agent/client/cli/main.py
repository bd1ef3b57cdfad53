"""ngcp-invoke-task: run a task from a shell, see ngcp-invoke-task(1)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import io
import logging
import os
import signal
import stat
import sys
import time
from functools import partial
from typing import Any, Callable, List, Optional, TextIO, Tuple

from ngcp_task_agent import display
from ngcp_task_agent.client import (
    Address,
    Call,
    Client,
    ClientError,
    ConnectionLost,
    RedisUnavailable,
    Verdict,
    find,
    requests,
)
from ngcp_task_agent.client.cli import arguments, report, text
from ngcp_task_agent.client.cli.output import FORMS, as_json
from ngcp_task_agent.client.cli.report import PROGRAM, Say, View
from ngcp_task_agent.client.cli.writer import WriteError, Writer
from ngcp_task_agent.client.client import CONNECT_TIMEOUT
from ngcp_task_agent.client.waiting import TIMEOUT
from ngcp_task_agent.logs.lines import printable

EX_USAGE = 2
EX_UNAVAILABLE = 69  # Redis, as in sysexits.h
EX_SOFTWARE = 70
EX_IOERR = 74
_BY_SIGNAL = 128  # plus the signal's number, as in shells
EXIT_STATUSES = {
    Verdict.DONE: 0,
    Verdict.ERROR: 1,
    Verdict.REJECTED: 3,
    Verdict.UNANSWERED: 4,
    Verdict.UNFINISHED: 5,
}
_MOST_NOTES = 5
_INSTANT = 0.1  # seconds
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
        timeout = options.timeout
        say = report.say_nothing if options.quiet else report.say
        if options.verbose:
            logging.basicConfig(stream=report.stderr(), format="%(message)s")
        else:
            logging.disable()
        status = _guard(lambda: _invoke(options, say), say)
    # An interrupted command does not wait for its messages to be read.
    left = begin + timeout - time.monotonic() if status < _BY_SIGNAL else 0.0
    with contextlib.suppress(KeyboardInterrupt):
        report.stderr().wait(max(_MOMENT, left))
    return status


def _guard(act: Callable[[], int], say: Say) -> int:
    """Call a function; return its exit status, or that of its error."""
    try:
        return act()
    except KeyboardInterrupt:
        # Before the request was sent, or after everything was reported.
        return _BY_SIGNAL + signal.SIGINT
    except WriteError as error:
        if error.is_closed:
            return _BY_SIGNAL + signal.SIGPIPE
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


def _invoke(options: argparse.Namespace, say: Say) -> int:
    data = None
    if options.data is not None:
        data = arguments.read_data(options.data, options.timeout)
    if options.channel is not None:
        requests.check_channel(options.channel)
    address = find(
        options.task,
        backend=options.backend,
        channel=options.channel,
        url=options.url,
        config_dir=options.config_dir,
    )
    # Report wrong usage even if Redis is down.
    requests.OutgoingRequest(
        options.task, address.src, options.dst, data
    ).encode(PROGRAM)
    notes = [address.warning]
    if options.verbose:
        notes = [*address.notes, str(address)]
    for note in [requests.explain_numbers(options.dst), *notes]:
        if note:
            say(printable(note))
    # asyncio.run() would wait for name lookups that are still running.
    loop = asyncio.new_event_loop()
    try:
        invocation = Invocation(options, address, say)
        return loop.run_until_complete(invocation.run(data))
    except RedisUnavailable:
        if address.assumed and not options.verbose:
            for note in address.notes[:_MOST_NOTES]:
                if note != address.warning:
                    say(printable(note))
        raise
    finally:
        loop.close()


class Invocation:
    """One request, from the command line to the exit status."""

    def __init__(
        self, options: argparse.Namespace, address: Address, say: Say
    ) -> None:
        self._options = options
        self._address = address
        self._say = say
        self._form = FORMS[options.output]()
        # If both outputs are one file, one writer keeps their order.
        is_shared = report.stderr().is_same(sys.stdout)
        self._writer = report.stderr() if is_shared else Writer(sys.stdout)
        self._is_used = False
        self._encode = display.encode_as_it_is
        if _is_terminal(sys.stdout):
            self._encode = display.encode_for_terminal
        self._view = _choose_view(options, say, is_shared)
        # On one terminal, the data follows the live view.
        self._is_below = self._view.is_live and is_shared
        self._signal: Optional[int] = None

    async def run(self, data: object) -> int:
        """Send the request and follow it; return the exit status.

        :raises ClientError: when it could not be sent
        :raises WriteError: when standard output cannot be written
        """
        options = self._options
        call: Optional[Call] = None
        self._handle_signals()
        try:
            async with Client(
                self._address,
                connect_timeout=min(CONNECT_TIMEOUT, options.timeout),
            ) as client:
                # wait_for() can swallow a cancellation before Python 3.12.
                if self._signal is not None:
                    raise asyncio.CancelledError
                call = client.send(
                    options.task, options.dst, data, patience=options.patience
                )
                if options.verbose:
                    self._say(f"request {call.request.uuid}")
                exit_status = await self._follow(call)
            await self._write_all()
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            if not call:
                self._say("interrupted before the request was sent")
        # Before Python 3.12 wait_for() may have lost the cancellation.
        return _BY_SIGNAL + self._signal if self._signal else exit_status

    async def _follow(self, call: Call) -> int:
        """Report the responses and the outcome; return the exit status."""
        held: List[str] = []
        write = held.append if self._is_below else self._write
        lost = ""
        loop = asyncio.get_running_loop()
        self._writer.on_error = partial(loop.call_soon_threadsafe, call.stop)
        try:
            async with self._view.follow(call):
                async for response in call:
                    self._view.response(response)
                    write(self._form.response(response))
            self._writer.check()
        except ConnectionLost as error:
            lost = str(error)
        except WriteError:
            self._say_running(call)
            raise
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            call.stop()
        status, exit_status = self._conclude(call, lost)
        document = as_json(call.outcome, status, exit_status)
        for shown in (*held, self._form.end(document)):
            self._write(shown)
        return exit_status

    def _write(self, shown: str) -> None:
        self._writer.put(shown, self._encode)
        self._is_used |= bool(shown)

    def _conclude(self, call: Call, lost: str) -> Tuple[str, int]:
        """Report the outcome; return it as a word and an exit status."""
        if self._signal is not None:
            self._say_running(call, "interrupted; ", "no node that answered")
            return "interrupted", _BY_SIGNAL + self._signal
        if lost:
            self._say(printable(lost))
            self._say_running(call)
            return "lost", EX_UNAVAILABLE
        for problem in text.of_problems(call.outcome):
            self._say(problem)
        verdict = call.outcome.verdict
        return verdict.value, EXIT_STATUSES[verdict]

    def _say_running(self, call: Call, why: str = "", none: str = "") -> None:
        running = text.names(call.outcome.unfinished) or none
        if running:
            self._say(f"{why}still running or queued: {running}")

    async def _write_all(self) -> None:
        """Wait for the reader of standard output, as long as it reads."""
        timeout = self._options.timeout
        if not self._is_used:
            return  # main() waits for standard error
        if self._signal is not None:
            # Wait only for a reader that is reading right now.
            await self._writer.drain(_INSTANT, _MOMENT)
        elif not await self._writer.drain(timeout):
            reason = f"not read for {timeout:g} s"
            raise WriteError(OSError(errno.ETIMEDOUT, reason))

    def _handle_signals(self) -> None:
        """Let SIGINT and SIGTERM end the wait.

        Ignored ones stay ignored, as shells ignore SIGINT for background
        commands.
        """
        task: Any = asyncio.current_task()

        def interrupt(number: int) -> None:
            if self._signal is None:
                self._signal = number
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, interrupt, number)


def _choose_view(
    options: argparse.Namespace, say: Say, is_shared: bool
) -> View:
    if (
        options.quiet
        or os.environ.get("TERM", "dumb") in ("", "dumb")
        or not _is_terminal(sys.stderr)
        # The reader of standard output may write to the same terminal, and one
        # terminal can have two names.
        or (not is_shared and (_is_terminal(sys.stdout) or _is_piped()))
    ):
        return View(say, options.verbose)
    # Imported here: loading it takes longer than running a task.
    from ngcp_task_agent.client.cli.live import LiveView

    return LiveView(say, options.verbose)


def _is_terminal(stream: Optional[TextIO]) -> bool:
    return stream is not None and stream.isatty()


def _is_piped() -> bool:
    mode = os.fstat(sys.stdout.fileno()).st_mode if sys.stdout else 0
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
