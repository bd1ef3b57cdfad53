"""A running agent, as the bus would show it.

``python -m tests.running_agent WORDS`` runs ngcp-task-agentctl with it.
"""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar, Optional, Tuple

from ngcp_task_agent.ctl import agent, cli
from ngcp_task_agent.errors import AgentError
from ngcp_task_agent.management.interface import (
    AgentState,
    BackendState,
    Counters,
    JobState,
    TaskState,
)

ONE = "aaaaaaaa-0000-4000-8000-00000000000b"
NASTY = "\x1b]0;x\x07[red]\u202e\n"


class FakeAgent:
    """In the place of RunningAgent.

    :cvar error: raised by all calls
    """

    error: ClassVar[Optional[AgentError]] = None

    async def __aenter__(self) -> FakeAgent:
        if self.error:
            raise self.error
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def state(self) -> AgentState:
        return AgentState(
            "1.5.0",
            {
                "name": "prx01a",
                "aliases": ["prx01a.example.org"],
                "roles": ["proxy", "lb"],
                "state": "active",
                "status": "online",
                "labels": {"site": "vienna"},
            },
            (
                BackendState("redis", "subscribed", ""),
                BackendState("other", "away", "Connection refused"),
            ),
            Counters(
                {
                    "received": 9,
                    "rejected": 2,
                    "busy": 1,
                    "accepted": 7,
                    "done": 7,
                },
                {"ping": {"done": 7}},
            ),
        )

    async def tasks(self) -> Tuple[TaskState, ...]:
        return (
            TaskState("ping", "redis", "tasks", "command", 1, 0, "Is it?"),
            TaskState("nasty", "redis", "tasks", "command", 0, 2, NASTY),
        )

    async def jobs(self) -> Tuple[JobState, ...]:
        since = int((time.time() - 3 * 3600) * 1e6)
        place = ("redis", "tasks")
        return (
            JobState(ONE, "ping", "sp1", *place, "running", since, 4711),
            JobState(ONE, "ping", NASTY, *place, "queued", since, 0),
        )

    async def cancel(self, uuid: str) -> bool:
        return uuid == ONE


if __name__ == "__main__":
    fake: Any = FakeAgent
    agent.RunningAgent = fake  # type: ignore[misc]
    sys.exit(cli.main())
