"""ngcp-invoke-task: run a task from a shell, see ngcp-invoke-task(1)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import io
import logging
import signal
import sys
import time
from typing import Any, Callable, Coroutine, List, Optional, Tuple

from ngcp_task_agent.client.call import TIMEOUT, Call, Patience
from ngcp_task_agent.client.cli import arguments, output, report, text
from ngcp_task_agent.client.cli.report import PROGRAM, say
from ngcp_task_agent.client.cli.writer import Writer
from ngcp_task_agent.client.client import CONNECT_TIMEOUT, Client
from ngcp_task_agent.client.discovery import Address, find
from ngcp_task_agent.client.errors import (
    ClientError,
    ConnectionLost,
    RedisUnavailable,
)
from ngcp_task_agent.client.outcome import Verdict
from ngcp_task_agent.client.requests import Request, check_channel

EX_USAGE = 2
EX_UNAVAILABLE = 69  # Redis, as in sysexits.h
EX_SOFTWARE = 70
EX_IOERR = 74
_BY_SIGNAL = 128  # and the signal's number, as shells tell it
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
    """Run the command; the exit status."""
    begin = time.monotonic()
    timeout = TIMEOUT
    out, err = io.StringIO(), io.StringIO()
    try:
        # argparse does not care whether these can be written.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            options = arguments.parse(argv)
    except SystemExit as end:
        report.Stderr().write(err.getvalue())
        status = _guard(lambda: _show(out.getvalue()), quiet=False)
        status = status or int(end.code or 0)
    else:
        timeout = options.timeout
        _set_up_logging(options.verbose)
        status = _guard(lambda: _invoke(options), options.quiet)
    # What is still to be said is for people: it is worth no longer wait.
    left = begin + timeout - time.monotonic() if status < _BY_SIGNAL else 0.0
    try:
        report.stderr().close(max(_MOMENT, left))
    except KeyboardInterrupt:
        pass  # nor this one
    return status


def _guard(act: Callable[[], int], quiet: bool) -> int:
    """Do it; the exit status, also of what it raises."""
    try:
        return act()
    except KeyboardInterrupt:
        # Before the request was sent, or after all was told.
        return _BY_SIGNAL + signal.SIGINT
    except output.OutputError as error:
        if error.errno == errno.EPIPE:
            return _BY_SIGNAL + signal.SIGPIPE
        if not quiet:
            say(str(error))
        return EX_IOERR
    except ClientError as error:
        if not quiet:
            say(text.plain(str(error)))
        unavailable = isinstance(error, RedisUnavailable)
        return EX_UNAVAILABLE if unavailable else EX_USAGE
    except Exception as error:
        say(f"a bug: {text.plain(repr(error))}")
        return EX_SOFTWARE


def _show(shown: str) -> int:
    """Write the help or the version, if that is what is asked for."""
    if shown:
        out = output.Output(Writer(sys.stdout), _shows(sys.stdout))
        out.write(shown)
        asyncio.run(out.end(TIMEOUT))
    return 0


def _invoke(options: argparse.Namespace) -> int:
    data = None
    if options.data is not None:
        data = arguments.read_data(options.data, options.timeout)
    if options.channel is not None:
        check_channel(options.channel)
    address = find(
        options.task,
        backend=options.backend,
        channel=options.channel,
        url=options.url,
        config_dir=options.config_dir,
    )
    # Wrong usage is told even where there is no Redis.
    Request(options.task, address.src, options.dst, data).encode(PROGRAM)
    if options.verbose:
        for line in (*address.notes, str(address)):
            say(text.plain(line))
    elif address.warning and not options.quiet:
        say(text.plain(address.warning))
    invocation = Invocation(options, address)
    try:
        return _run_loop(invocation.run(data))
    except ConnectionLost:
        raise
    except RedisUnavailable:
        if address.assumed and not (options.verbose or options.quiet):
            for note in address.notes[:_MOST_NOTES]:
                if note != address.warning:
                    say(text.plain(note))
        raise


def _run_loop(coroutine: Coroutine[Any, Any, int]) -> int:
    """As asyncio.run(), which waits until names have been looked up."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


class Invocation:
    """One request, from the command line to the exit status."""

    def __init__(self, options: argparse.Namespace, address: Address) -> None:
        self._options = options
        self._address = address
        self._patience = Patience(
            timeout=options.timeout,
            answer_timeout=options.answer_timeout,
            expect=options.expect,
        )
        self._view = report.choose(options.quiet, options.verbose)
        # Where both are the same they have one writer: what is written in
        # turn is read in turn.
        is_shared = report.stderr().is_same(sys.stdout)
        is_terminal = _shows(sys.stdout)
        self._output = output.Output(
            report.stderr() if is_shared else Writer(sys.stdout), is_terminal
        )
        hold = self._view.is_live and is_terminal
        # Two names of one terminal, perhaps: the view comes to rest first.
        self._is_below = hold and not is_shared
        self._form = output.FORMS[options.output](self._output.write, hold)
        self._signal: Optional[int] = None
        self._exit_status: Optional[int] = None

    async def run(self, data: object) -> int:
        """Send the request and follow it; the exit status.

        :raises ClientError: when it could not be sent, or not be followed
        :raises OutputError: when standard output takes no more
        """
        self._handle_signals()
        try:
            async with Client(
                self._address,
                connect_timeout=min(CONNECT_TIMEOUT, self._patience.timeout),
            ) as client:
                # wait_for() can swallow it where it ends at that moment.
                if self._signal is not None:
                    raise asyncio.CancelledError
                call = client.send(
                    self._options.task,
                    self._options.dst,
                    data,
                    patience=self._patience,
                )
                if self._options.verbose:
                    say(f"request {call.request.uuid}")
                try:
                    lost = await self._follow(call)
                except output.OutputError:
                    if self._exit_status is None:  # else that is told
                        self._say_unfinished(call)
                    raise
            await self._write_all()
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            if self._exit_status is None and not self._options.quiet:
                say("interrupted before the request was sent")
            return _BY_SIGNAL + self._signal
        if lost:
            raise lost
        assert self._exit_status is not None
        return self._exit_status

    async def _follow(self, call: Call) -> Optional[ConnectionLost]:
        """Tell what comes, and how it ended."""
        lost: Optional[ConnectionLost] = None
        self._output.on_error(call.stop)
        self._view.start(call)
        try:
            async for response in call:
                self._view.response(response)
                self._form.response(response)
        except ConnectionLost as error:
            lost = error
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            call.stop()
        finally:
            await self._view.end()
        self._output.check()
        status, self._exit_status = self._conclude(call, lost)
        if self._is_below:
            wait = _INSTANT if self._signal else self._options.timeout
            with contextlib.suppress(OSError):
                await report.stderr().written(wait)
        self._form.end(call.outcome, status, self._exit_status)
        return lost

    async def _write_all(self) -> None:
        """Wait for the reader of standard output, as long as it reads."""
        if self._signal is None:
            await self._output.end(self._options.timeout)
            return
        # Who interrupts waits for no reader but one that reads just now.
        try:
            await asyncio.wait_for(self._output.end(_INSTANT), _MOMENT)
        except asyncio.TimeoutError:
            self._exit_status = _BY_SIGNAL + self._signal
        except output.OutputError as error:
            if error.errno != errno.ETIMEDOUT:
                raise
            self._exit_status = _BY_SIGNAL + self._signal

    def _conclude(
        self, call: Call, lost: Optional[ConnectionLost]
    ) -> Tuple[str, int]:
        """The outcome in a word and as an exit status; tells the rest."""
        outcome = call.outcome
        if self._signal is not None:
            if not self._options.quiet:
                running = text.names(outcome.unfinished)
                running = running or "none that has answered"
                say(f"interrupted; still running or queued: {running}")
            return "interrupted", _BY_SIGNAL + self._signal
        if lost:
            self._say_unfinished(call)
            return "lost", EX_UNAVAILABLE
        self._view.problems(outcome)
        verdict = outcome.verdict
        return verdict.value, EXIT_STATUSES[verdict]

    def _say_unfinished(self, call: Call) -> None:
        unfinished = call.outcome.unfinished
        if unfinished and not self._options.quiet:
            say(f"still running or queued: {text.names(unfinished)}")

    def _handle_signals(self) -> None:
        """Let SIGINT and SIGTERM end the waiting.

        But not a SIGINT that whoever has started this wants ignored, as
        shells do for what they run in the background.
        """
        task = asyncio.current_task()
        assert task
        main_task = task

        def interrupt(number: int) -> None:
            if self._signal is None:
                self._signal = number
                main_task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, interrupt, number)


def _shows(stream: object) -> bool:
    """Whether what is written there comes to a terminal."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


def _set_up_logging(verbose: bool) -> None:
    """What the agent's own modules log is not for this command's users."""
    logger = logging.getLogger("ngcp_task_agent")
    logger.addHandler(
        logging.StreamHandler(report.Stderr())
        if verbose
        else logging.NullHandler()
    )
    logging.getLogger("asyncio").addHandler(logging.NullHandler())
