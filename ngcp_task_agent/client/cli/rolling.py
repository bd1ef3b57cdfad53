"""Runs a task on a few nodes after the other, and stops at a failure."""

from __future__ import annotations

from ngcp_task_agent.client.cli.action import Action
from ngcp_task_agent.client.client import Client


class Rolling(Action):
    """--batch, --max-failures, --pause and --limit."""

    async def act(self, client: Client) -> int:
        raise NotImplementedError
