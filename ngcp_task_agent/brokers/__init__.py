"""The brokers, which do the work of tasks.

Each has a module and a row in this table.  Other packages can add brokers as
entry points in the group ``ngcp_task_agent.brokers``.
"""

from __future__ import annotations

from typing import Dict, Type

from ngcp_task_agent.brokers.agent import AgentBroker
from ngcp_task_agent.brokers.base import Broker
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.brokers.systemd import SystemdBroker

BUILT_IN: Dict[str, Type[Broker]] = {
    "agent": AgentBroker,
    "command": CommandBroker,
    "systemd": SystemdBroker,
}
