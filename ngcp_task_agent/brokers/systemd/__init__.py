"""The ``systemd`` broker: acts on units, or runs programs as new ones."""

from __future__ import annotations

from typing import Any, Mapping

from ngcp_task_agent.brokers.base import AgentView, Broker, Program, Work
from ngcp_task_agent.brokers.systemd.options import OPTIONS_SCHEMA
from ngcp_task_agent.protocol.messages import Request


class SystemdBroker(Broker):
    """Has two forms: with ``unit``, or with ``run``."""

    options_schema = OPTIONS_SCHEMA

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._form: Broker
        # Loaded only where it is used, which few configurations do.
        if "unit" in options:
            from ngcp_task_agent.brokers.systemd.unit import UnitBroker

            self._form = UnitBroker(options)
        elif "run" in options:
            from ngcp_task_agent.brokers.systemd.transient import (
                TransientBroker,
            )

            self._form = TransientBroker(options)
        else:
            raise ValueError("the key 'unit' or the key 'run' is missing")
        self.timeout = self._form.timeout
        self.takes_extra_args = self._form.takes_extra_args

    def programs(self) -> Mapping[str, Program]:
        return self._form.programs()

    def problems(self) -> Mapping[str, str]:
        return self._form.problems()

    def start(self, agent: AgentView) -> None:
        self._form.start(agent)

    def data(self, request: Request) -> Any:
        return self._form.data(request)

    def prepare(self, request: Request) -> Work:
        return self._form.prepare(request)
