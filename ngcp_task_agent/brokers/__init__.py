"""The brokers: how work is done.

One module for each, and its row in the table.  Another package can add one by
an entry point of the group ``ngcp_task_agent.brokers``.
"""

from __future__ import annotations

from typing import Dict, Type

from ngcp_task_agent.brokers.base import Broker
from ngcp_task_agent.brokers.command import CommandBroker

BUILT_IN: Dict[str, Type[Broker]] = {"command": CommandBroker}
