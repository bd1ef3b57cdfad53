"""Background tasks of the agent itself, which must not end by an error."""

from __future__ import annotations

import asyncio
from typing import Any, Coroutine

# The key, in what the exception handler is told, that makes it an end.
FATAL = "ngcp_task_agent.fatal"

_AGAIN = 1.5  # seconds, more than anything needs to clean up


def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine in the background; the caller keeps the task.

    If it ever raises, that goes to the loop's exception handler, with which
    the agent ends itself: better restarted than half alive.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(_tell)
    return task


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a background task and wait until it is gone.

    More than once, if need be: before Python 3.12 a cancellation is lost in
    wait_for() if what it waits for ends at that moment.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN)


def _tell(task: asyncio.Task[None]) -> None:
    if task.cancelled() or task.exception() is None:
        return
    task.get_loop().call_exception_handler(
        {
            "message": "a part of the agent has failed",
            FATAL: True,
            "exception": task.exception(),
        }
    )
