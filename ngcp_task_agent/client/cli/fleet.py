"""Asks the agents themselves: who is there, what can be asked, what runs."""

from __future__ import annotations

from typing import Any, Tuple

from ngcp_task_agent.client.cli.action import Action
from ngcp_task_agent.client.client import Client


class Fleet(Action):
    """--nodes, --tasks, --jobs and --cancel."""

    def request(self) -> Tuple[str, Any]:
        return "ngcp.ping", None

    async def act(self, client: Client) -> int:
        raise NotImplementedError
