"""The form ``run`` of the broker: a program in a unit of its own."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from ngcp_task_agent.brokers.base import AgentView
from ngcp_task_agent.brokers.program import ProgramBroker
from ngcp_task_agent.brokers.systemd.agent_slice import AgentSlice, agent_slice
from ngcp_task_agent.brokers.systemd.names import run_name
from ngcp_task_agent.brokers.systemd.options import OPTIONS_SCHEMA
from ngcp_task_agent.brokers.systemd.properties import (
    INFINITY,
    Sent,
    sent,
)
from ngcp_task_agent.brokers.systemd.unit_run import UnitRun
from ngcp_task_agent.process.run import EndCause, Exit
from ngcp_task_agent.process.spawn import Command
from ngcp_task_agent.protocol.messages import Request

_SECOND = 10**6  # systemd counts microseconds
KILL_AFTER = 2.0  # seconds from TERM to KILL
# Seconds more than a unit may take in which systemd must have ended it.
_PATIENCE = 60.0


class TransientBroker(ProgramBroker):
    """Runs the program that a task names, each time in a new unit."""

    options_schema = OPTIONS_SCHEMA

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        properties = options.get("properties", {})
        self._is_dynamic: bool = properties.get("DynamicUser", False)
        if self._is_dynamic and "as_user" in options:
            raise ValueError("give as_user or DynamicUser, not both")
        found: Dict[str, Sent] = {one[0]: one for one in sent(properties)}
        stop = "TimeoutStopUSec"
        found.setdefault(stop, (stop, "t", round(KILL_AFTER * _SECOND)))
        self._stop_within: int = found[stop][2]
        # systemd ends what runs too long, even if the agent is gone.
        _, _, longest = found.pop("RuntimeMaxUSec", ("", "", INFINITY))
        if longest != INFINITY:
            longest /= _SECOND
            self.timeout = min(self.timeout or longest, longest)
        self._sent = [*found.values()]
        self._slice: Optional[AgentSlice] = None

    def start(self, agent: AgentView) -> None:
        self._slice = agent_slice(agent.folder)

    def make_run(self, command: Command, request: Request) -> UnitRun:
        assert self._slice, "start() comes first"
        task = "".join(c if c.isprintable() else "?" for c in request.task)
        properties: List[Sent] = [
            ("Description", "s", f"{task}, request {request.uuid}"),
            ("Slice", "s", self._slice.name),
            # Nothing is left of a unit that has failed, either.
            ("CollectMode", "s", "inactive-or-failed"),
            *self._sent,
        ]
        environment = dict(command.environment)
        if self._is_dynamic:
            # systemd knows them, and sets them.
            for name in ("HOME", "USER", "LOGNAME", "SHELL"):
                del environment[name]
        elif command.user.uid != 0:
            properties.append(("User", "s", command.user.name))
        within = None
        if command.timeout:
            longest = round(command.timeout * _SECOND)
            properties.append(("RuntimeMaxUSec", "t", longest))
            if self._stop_within != INFINITY:
                longest += self._stop_within
                within = longest / _SECOND + _PATIENCE
        return UnitRun(
            command,
            environment,
            run_name(request.task),
            properties,
            self._slice,
            within,
        )

    def error(self, ended: Exit) -> str:
        if ended.cause is EndCause.MEMORY:
            return "the command was killed: memory ran out"
        if ended.cause is EndCause.UNSEEN:
            return (
                "the system bus was away when the command was started or "
                "ended; the journal may have its status"
            )
        return super().error(ended)
