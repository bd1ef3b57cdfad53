"""The ``command`` broker: runs a program as a process of the agent's."""

from __future__ import annotations

from ngcp_task_agent.brokers.program import OPTIONS, ProgramBroker
from ngcp_task_agent.process.run import Process
from ngcp_task_agent.process.spawn import Command
from ngcp_task_agent.protocol.messages import Request


class CommandBroker(ProgramBroker):
    """Runs the program that a task names."""

    options_schema = {
        "type": "object",
        "required": ["run"],
        "additionalProperties": False,
        "properties": OPTIONS,
    }

    def make_run(self, command: Command, request: Request) -> Process:
        return Process(command)
