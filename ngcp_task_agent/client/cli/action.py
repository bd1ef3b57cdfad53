"""What the command line asks for: one action, over one connection."""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
import sys
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Optional, TextIO, Tuple

from ngcp_task_agent import display
from ngcp_task_agent.client.cli import report
from ngcp_task_agent.client.cli.exit_status import BY_SIGNAL, SIGNALS
from ngcp_task_agent.client.cli.report import PROGRAM, Say
from ngcp_task_agent.client.cli.writer import WriteError, Writer
from ngcp_task_agent.client.client import CONNECT_TIMEOUT, Client
from ngcp_task_agent.client.discovery import (
    CONTROL_CHANNEL,
    DEFAULT_BACKEND,
    PASSWORD_VARIABLE,
    Address,
)
from ngcp_task_agent.client.url import url_of
from ngcp_task_agent.config.loader import DEFAULT_DIR

_INSTANT = 0.1  # seconds
_MOMENT = 1.0  # seconds


class Action(ABC):
    """One action, from the options to the exit status.

    :ivar options: see arguments.parse(); ``data`` is the value itself
    :ivar writer: standard output
    :ivar is_shared: whether standard output and standard error are one file,
        which has one writer
    :ivar signal: the one that ends the action, once it is there; act() is
        then cancelled
    """

    def __init__(
        self, options: argparse.Namespace, address: Address, say: Say
    ) -> None:
        self.options = options
        self.address = address
        self.say = say
        # If both outputs are one file, one writer keeps their order.
        self.is_shared = report.stderr().is_same(sys.stdout)
        self.writer = report.stderr() if self.is_shared else Writer(sys.stdout)
        self.signal: Optional[int] = None
        self._is_used = False
        self._encode = display.encode_as_it_is
        if is_terminal(sys.stdout):
            self._encode = display.encode_for_terminal

    def request(self) -> Tuple[str, Any]:
        """Return the task to run and its data, to be checked early."""
        return self.options.task, self.options.data

    @abstractmethod
    async def act(self, client: Client) -> int:
        """Act, and return the exit status.

        It can handle its cancellation when ``signal`` is set.

        :raises ClientError: when a request could not be sent
        :raises WriteError: when standard output cannot be written
        """

    async def run(self) -> int:
        """Connect and act; return the exit status.

        :raises ClientError: as act(), or when Redis cannot be reached
        :raises WriteError: when standard output cannot be written
        """
        self._handle_signals()
        try:
            async with Client(
                self.address,
                connect_timeout=min(
                    CONNECT_TIMEOUT, self.options.reader_timeout
                ),
            ) as client:
                # wait_for() can swallow a cancellation before Python 3.12.
                if self.signal is not None:
                    raise asyncio.CancelledError
                exit_status = await self.act(client)
            await self.write_all()
        except asyncio.CancelledError:
            if self.signal is None:
                raise
            self.say_interrupted()
        # Before Python 3.12 wait_for() may have lost the cancellation.
        return BY_SIGNAL + self.signal if self.signal else exit_status

    def say_interrupted(self) -> None:
        """Report a signal that act() did not."""
        self.say("interrupted before the request was sent")

    def cancel_line(self, uuid: str) -> str:
        """Return the command line that cancels a request of this action.

        It asks all nodes: those of the ``--dst`` may have changed their state.
        """
        # Imported here: most calls do not need it.
        import shlex

        options, address = self.options, self.address
        words = [PROGRAM, "--cancel", uuid]
        if options.config_dir != DEFAULT_DIR:
            words += ["--config-dir", str(options.config_dir)]
        if options.url is not None:
            words += ["--url", url_of(address.server)]
        elif address.backend not in ("", DEFAULT_BACKEND):
            words += ["--backend", address.backend]
        if address.channel != CONTROL_CHANNEL or options.channel:
            words += ["--channel", address.channel]
        line = " ".join(map(shlex.quote, words))
        if options.url is not None and "password" in address.server:
            line += f"  # with the password in ${PASSWORD_VARIABLE}"
        return line

    def write(self, shown: str) -> None:
        """Write to standard output; never waits for its reader.

        :raises WriteError: when it cannot be written
        """
        self.writer.put(shown, self._encode)
        self._is_used |= bool(shown)

    async def write_all(self) -> None:
        """Wait for the reader of standard output, as long as it reads.

        :raises WriteError: when it does not
        """
        if not self._is_used:
            return  # main() waits for standard error
        if self.signal is not None:
            # Wait only for a reader that is reading right now.
            await self.writer.drain(_INSTANT, _MOMENT)
        else:
            await self.drain()

    async def drain(self) -> None:
        """Wait until all that is queued for standard output is written.

        :raises WriteError: when its reader does not read
        """
        timeout = self.options.reader_timeout
        if not await self.writer.drain(timeout):
            reason = f"not read for {timeout:g} s"
            raise WriteError(OSError(errno.ETIMEDOUT, reason))

    def _handle_signals(self) -> None:
        """Let signals cancel the action; ignored ones stay ignored."""
        task: Any = asyncio.current_task()

        def interrupt(number: int) -> None:
            if self.signal is None:
                self.signal = number
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, partial(interrupt, number))


def is_terminal(stream: Optional[TextIO]) -> bool:
    return stream is not None and stream.isatty()
