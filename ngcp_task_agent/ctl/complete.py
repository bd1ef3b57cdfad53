"""Completion: the running agent's requests, and the names of tasks."""

from __future__ import annotations

import contextlib
from typing import Any, List

from ngcp_task_agent.config.loader import DEFAULT_DIR, Loader


def uuids(**_: Any) -> List[str]:
    """Return the uuids of requests that run or wait; never fails."""
    return []


def tasks(**_: Any) -> List[str]:
    """Return the names of tasks, as far as this user may read them."""
    with contextlib.suppress(Exception):
        return sorted({task.name for task in Loader(DEFAULT_DIR).load().tasks})
    return []
