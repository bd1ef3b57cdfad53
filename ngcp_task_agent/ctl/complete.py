"""Completion: the running agent's requests, and the names of tasks."""

from __future__ import annotations

import contextlib
from typing import Any, List

from ngcp_task_agent.config.loader import DEFAULT_DIR, Loader
from ngcp_task_agent.ctl.agent import ask

# Completion says nothing, whatever goes wrong, and nobody waits for long.
WITHIN = 1.0  # seconds


def uuids(**_: Any) -> List[str]:
    """Return the uuids of requests that run or wait, if there is an agent."""
    with contextlib.suppress(Exception):
        return sorted({job.uuid for job in ask(lambda a: a.jobs(), WITHIN)})
    return []


def tasks(**_: Any) -> List[str]:
    """Return the names of tasks.

    The agent's own, or those of the configuration, if this user may read it.
    """
    with contextlib.suppress(Exception):
        return sorted({t.name for t in ask(lambda a: a.tasks(), WITHIN)})
    with contextlib.suppress(Exception):
        return sorted({t.name for t in Loader(DEFAULT_DIR).load().tasks})
    return []
