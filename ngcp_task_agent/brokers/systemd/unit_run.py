"""UnitRun: one run of a command in a unit of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from functools import partial
from typing import List, Mapping, Optional, Tuple

from ngcp_task_agent.brokers.systemd import pid1
from ngcp_task_agent.brokers.systemd.agent_slice import AgentSlice
from ngcp_task_agent.brokers.systemd.environment import (
    check_fit,
    environment_file,
    memory_file,
)
from ngcp_task_agent.brokers.systemd.properties import Sent
from ngcp_task_agent.brokers.systemd.units import Unit, units
from ngcp_task_agent.errors import BusAway, BusError, CannotStart
from ngcp_task_agent.process.pipe import Pipe
from ngcp_task_agent.process.run import STDERR_KEPT, EndCause, Exit
from ngcp_task_agent.process.spawn import Command, find_program, why

_LITERAL = ["no-env-expand"]
CLOSE_WITHIN = 5.0  # seconds for pipes to close after their unit ended
_POLL = 0.02  # seconds between checks of a pipe that should close

# The exit statuses of a process that has not become the program yet, see
# systemd.exec(5).  A program can have one of them, too.
_NOT_STARTED = range(200, 244)
_NO_EXEC = 203
_COULD_NOT_SET = {
    200: "WorkingDirectory",
    216: "the groups",
    217: "the user",
    218: "the capabilities",
    226: "the paths that its properties name",
    228: "SystemCallFilter",
}


class UnitRun:
    """Runs a command in a new unit: ``run()``, once.

    :param environment: instead of the command's own
    :param name: of the unit
    :param properties: of the unit, but for those that all have
    :param within: seconds in which systemd must have ended it; None for no
        limit
    """

    def __init__(
        self,
        command: Command,
        environment: Mapping[str, str],
        name: str,
        properties: List[Sent],
        in_slice: AgentSlice,
        within: Optional[float],
    ) -> None:
        self._command = command
        self._environment = environment
        self._properties = properties
        self._slice = in_slice
        self._within = within
        self._unit = Unit(name)
        self._cause: Optional[EndCause] = None  # ours, for ending it
        loop, limit = asyncio.get_running_loop(), command.max_output
        full = partial(self._end, EndCause.OUTPUT)
        self._stdout = Pipe(loop, limit, None, full, command.on_stdout)
        self._stderr = Pipe(loop, limit, STDERR_KEPT, full, command.on_stderr)

    @property
    def pid(self) -> Optional[int]:
        """The process of the program, while it runs."""
        return self._unit.known.get("ExecMainPID") or None

    def stop(self) -> None:
        """End the unit; run() returns soon, with ``EndCause.STOPPED``."""
        self._end(EndCause.STOPPED)

    async def run(self) -> Exit:
        """Start the unit and wait for its end.

        Afterwards nothing is left of it.  Cancelling this ends it, too.

        :raises CannotStart: when the command could not be started
        """
        unit = self._unit
        try:
            with units().following(unit), contextlib.ExitStack() as kept:
                await self._start(kept)
                if unit.may_exist and not await unit.ended(self._within):
                    self._cause = self._cause or EndCause.UNSEEN
            await self._read_rest()
        finally:
            if unit.may_exist and not unit.has_ended:
                units().stop(unit)
            self._stdout.close()
            self._stderr.close()
        return self._judge()

    def _end(self, cause: EndCause) -> None:
        if not self._cause and not self._unit.has_ended:
            self._cause = cause
            if self._unit.may_exist:
                units().stop(self._unit)

    async def _start(self, kept: contextlib.ExitStack) -> None:
        """Have systemd start the unit, unless this was stopped before.

        :param kept: closes what systemd opens only later
        :raises CannotStart: when that is not possible
        """
        command = self._command
        for word in command.argv:
            check_fit(word, f"an argument of '{command.argv[0]}'")
        try:
            await self._slice.clear()
            await units().up()
            if self._cause:
                return  # stopped meanwhile
            with contextlib.ExitStack() as handed:
                properties, fds = self._io(handed, kept)
                await self._call(properties, fds)
        except OSError as error:
            raise CannotStart(why(error, command)) from None
        except (BusAway, BusError) as error:
            raise CannotStart(f"{error}") from None
        # systemd has its own copy of what the command reads.
        self._command = dataclasses.replace(command, stdin=None)
        if self._cause:
            units().stop(self._unit)

    def _io(
        self, handed: contextlib.ExitStack, kept: contextlib.ExitStack
    ) -> Tuple[List[Sent], List[int]]:
        """Open pipes and files for the unit.

        :param handed: closes what systemd gets copies of
        :returns: properties, and the descriptors to which they refer
        :raises OSError: when that is not possible
        :raises CannotStart: when systemd does not accept a variable
        """
        fds: List[int] = []
        properties: List[Sent] = []

        def hand(name: str, fd: int) -> None:
            handed.callback(os.close, fd)
            properties.append((f"{name}FileDescriptor", "h", len(fds)))
            fds.append(fd)

        for name, pipe in (
            ("StandardOutput", self._stdout),
            ("StandardError", self._stderr),
        ):
            hand(name, pipe.open())
            # The command may reopen /dev/stdout as its own user.
            os.fchmod(fds[-1], 0o622)
            pipe.watch()
        if self._command.stdin is not None:
            stdin = memory_file("stdin", self._command.stdin)
            hand("StandardInput", stdin)
        environment = environment_file(self._environment)
        kept.callback(os.close, environment)
        path = f"/proc/{os.getpid()}/fd/{environment}"
        properties.append(("EnvironmentFiles", "a(sb)", [[path, False]]))
        return properties, fds

    async def _call(self, properties: List[Sent], fds: List[int]) -> None:
        """
        :raises BusError: when systemd does not start it
        """
        from dbus_fast.signature import Variant

        argv = list(self._command.argv)
        # ExecStart would replace $NAME in its words.
        started = ("ExecStartEx", "a(sasas)", [[argv[0], argv, _LITERAL]])
        # Never cancelled: until it is over, it needs the descriptors.
        call = asyncio.ensure_future(
            pid1.call(
                "StartTransientUnit",
                "ssa(sv)a(sa(sv))",
                self._unit.name,
                "fail",
                [
                    [name, Variant(signature, value)]
                    for name, signature, value in (
                        started,
                        *self._properties,
                        *properties,
                    )
                ],
                [],
                fds=fds,
            )
        )
        try:
            await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait({call})
            call.exception()  # has been seen
            self._unit.may_exist = True
            raise
        except BusAway:
            pass  # it may have been started: see when the bus is back
        except BusError as error:
            # Without an answer, it may still be started.
            self._unit.may_exist = error.name == pid1.NO_REPLY
            raise BusError(error.name, f"systemd: {error}") from None
        self._unit.may_exist = True

    async def _read_rest(self) -> None:
        """Read what the pipes hold, until they are closed."""
        deadline = time.monotonic() + CLOSE_WITHIN
        while not all([self._stdout.read_all(), self._stderr.read_all()]):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(_POLL)

    def _judge(self) -> Exit:
        """Say how it ended.

        :raises CannotStart: when the command could not be started
        """
        known = self._unit.known
        code, status = known.get("ExecMainCode"), known.get("ExecMainStatus")
        stdout, stderr = bytes(self._stdout.data), bytes(self._stderr.data)
        cause = self._cause or self._own_end()
        if cause is EndCause.EXITED and not (stdout or stderr):
            self._check_started()
        if cause is EndCause.EXITED and (
            self._stdout.is_full or self._stderr.is_full
        ):
            cause = EndCause.OUTPUT
        return Exit(
            cause,
            status if code == pid1.EXITED else None,
            status if code in pid1.KILLED else None,
            stdout,
            stderr,
        )

    def _own_end(self) -> EndCause:
        """Return why it ended, if not by us."""
        known = self._unit.known
        if self._unit.is_gone:
            return EndCause.UNSEEN
        result = known.get("Result")
        if result == "oom-kill":
            return EndCause.MEMORY
        if result == "timeout" and self._has_run_too_long():
            return EndCause.TIMEOUT
        return EndCause.EXITED

    def _has_run_too_long(self) -> bool:
        """Whether the program itself did, not only what it left behind."""
        timeout, known = self._command.timeout, self._unit.known
        began = known.get("ExecMainStartTimestampMonotonic", 0)
        ended = known.get("ExecMainExitTimestampMonotonic", 0)
        return timeout is not None and (
            not ended or ended - began >= timeout * 10**6
        )

    def _check_started(self) -> None:
        """
        :raises CannotStart: when the unit has ended before its program began
        """
        known, name = self._unit.known, self._unit.name
        program = self._command.argv[0]
        status: int = known.get("ExecMainStatus", 0)
        if not known.get("ExecMainCode"):
            what = known.get("Result", "")
            raise CannotStart(f"the journal of {name} says why ({what})")
        if known["ExecMainCode"] != pid1.EXITED or status not in _NOT_STARTED:
            return
        if status == _NO_EXEC:
            find_program(program)  # may know why
            raise CannotStart(
                f"'{program}', or the interpreter it names, cannot be "
                f"executed by '{self._command.user.name}'"
            )
        what = _COULD_NOT_SET.get(status, "the unit")
        raise CannotStart(
            f"systemd could not set up {what} (exit status {status}); the "
            f"journal of {name} says more"
        )
