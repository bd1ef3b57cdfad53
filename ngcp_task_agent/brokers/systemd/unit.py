"""The form ``unit`` of the broker: starts, stops, reloads a unit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, AsyncIterator, Mapping

from ngcp_task_agent.brokers.base import AgentView, Broker, Result, Work
from ngcp_task_agent.brokers.program import signal_name
from ngcp_task_agent.brokers.systemd import pid1
from ngcp_task_agent.brokers.systemd.journal_lines import last_lines
from ngcp_task_agent.brokers.systemd.names import full_name
from ngcp_task_agent.brokers.systemd.options import OPTIONS_SCHEMA, VERBS
from ngcp_task_agent.brokers.systemd.unit_jobs import UNSEEN, unit_jobs
from ngcp_task_agent.errors import BusAway, BusError
from ngcp_task_agent.protocol.messages import Request

SETTLE = 0.2  # seconds in which a service that has just begun may die

_OWN_UNIT = "ngcp-task-agent.service"
_OF_OWN_UNIT = ("reload", "reload-or-restart", "start")

#: What systemd refuses at once, by the names of its errors.
REFUSALS = {
    "NoSuchUnit": "there is no such unit",
    "UnitMasked": "the unit is masked",
    "BadUnitSetting": "the unit's file has a bad setting",
    "OnlyByDependency": "the unit is only started and stopped with others",
    "JobTypeNotApplicable": "the unit cannot do that; to reload, a service "
    "needs ExecReload",
    "TransactionIsDestructive": "systemd is doing the opposite now",
}
#: Results of jobs other than "done".
RESULTS = {
    "failed": "the job failed",
    "canceled": "the job was cancelled",
    "timeout": "the job took longer than the unit allows",
    "dependency": "a unit that it needs failed",
    "invalid": "the unit does not run",
    "assert": "an assertion of the unit does not hold",
}
_RUNNING = ("active", "reloading", "refreshing")
_ENDED = ("inactive", "failed")


class UnitBroker(Broker):
    """Has systemd act on the unit that a task names."""

    options_schema = OPTIONS_SCHEMA

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.unit = full_name(options["unit"])
        self.verb: str = options["verb"]
        self.timeout: float = options.get("timeout", 300)
        if self.unit == _OWN_UNIT and self.verb not in _OF_OWN_UNIT:
            raise ValueError(
                f"unit: the agent cannot {self.verb} itself, as it waits for "
                "its tasks to end"
            )

    def start(self, agent: AgentView) -> None:
        unit_jobs()  # connects

    def prepare(self, request: Request) -> Work:
        return UnitWork(self.unit, self.verb, self.timeout)


class UnitWork(Work):
    """One job of a unit, and the unit's state after it."""

    def __init__(self, unit: str, verb: str, timeout: float) -> None:
        self._unit = unit
        self._verb = verb
        self._timeout = timeout
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> Result:
        began = time.time()
        try:
            await unit_jobs().up()
            async with _kept(self._unit, self._verb):
                was_running = await self._is_running()
                if self._stopped.is_set():
                    return Result(error="the agent is stopping")
                flaw = await self._do()
                if self._verb != "stop":
                    await asyncio.sleep(SETTLE)
                found = await pid1.properties(self._unit)
        except (BusAway, BusError) as error:
            return Result(error=f"{self._verb} {self._unit}: {_words(error)}")
        state = f"{found.get('ActiveState')} ({found.get('SubState')})"
        flaw = flaw or _flaw(self._verb, was_running, found)
        if not flaw:
            return Result(data=state)
        name = found.get("Id", self._unit)
        lines = await last_lines(name, _invocation(found), began)
        return Result(
            data="".join(f"{line}\n" for line in lines),
            error=f"{self._verb} {self._unit}: {flaw}; it is {state}"
            f"{_ending(found)}",
        )

    async def _is_running(self) -> bool:
        """Whether it runs, if that matters: try-restart starts nothing."""
        if self._verb != "try-restart":
            return True
        found = await pid1.properties(self._unit)
        return found.get("ActiveState") not in _ENDED

    async def _do(self) -> str:
        """Do the job; return what is wrong, or nothing.

        :raises BusError: when systemd refuses, or does not answer
        :raises BusAway: when there is no connection
        """
        doing = asyncio.ensure_future(
            unit_jobs().run(VERBS[self._verb], self._unit)
        )
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait(
                {doing, stopped},
                timeout=self._timeout or None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            stopped.cancel()
            if not doing.done():
                doing.cancel()
        if doing.done():
            result = doing.result()
            # If the end was missed, the state says enough.
            if result in ("done", UNSEEN):
                return ""
            if result in RESULTS:
                return RESULTS[result]
            return f"the job's result is '{result}'"
        if self._stopped.is_set():
            return "the agent is stopping and has cancelled the job"
        return f"not done within its timeout of {self._timeout:g} s"


@contextlib.asynccontextmanager
async def _kept(unit: str, verb: str) -> AsyncIterator[None]:
    """Within, systemd remembers how a unit ended.

    One that is stopped need not exist any more.

    :raises BusError: when systemd refuses, or does not answer
    :raises BusAway: when there is no connection
    """
    if verb == "stop":
        yield
        return
    await pid1.call("RefUnit", "s", unit)
    try:
        yield
    finally:
        # Without the connection, or the unit, nothing is kept, either.
        with contextlib.suppress(BusAway, BusError):
            await pid1.call("UnrefUnit", "s", unit)


def _words(error: Exception) -> str:
    name = error.name if isinstance(error, BusError) else ""
    return REFUSALS.get(name.rpartition(".")[2], f"{error}")


def _flaw(verb: str, was_running: bool, found: pid1.Properties) -> str:
    """Return what is wrong with the state after a job, or nothing."""
    state = found.get("ActiveState")
    if verb == "stop":
        is_right = state in _ENDED
    else:
        is_right = state in _RUNNING or not was_running
    if is_right:
        return ""
    if verb == "stop":
        return "the unit did not stay stopped"
    if state == "inactive" and not found.get("ConditionResult", True):
        return "a condition of the unit does not hold"
    if state == "inactive" and found.get("Type") == "oneshot":
        return ""  # a failed one is in another state
    return "the unit does not run"


def _ending(found: pid1.Properties) -> str:
    """Return how a service's last main process ended, if it failed."""
    result = found.get("Result", "success")
    if result == "success":
        return ""
    code, status = found.get("ExecMainCode"), found.get("ExecMainStatus")
    if code == pid1.EXITED:
        return f", result {result}, exit status {status}"
    if code in pid1.KILLED and isinstance(status, int):
        return f", result {result}, {signal_name(status)}"
    return f", result {result}"


def _invocation(found: pid1.Properties) -> str:
    return bytes(found.get("InvocationID", b"")).hex()
