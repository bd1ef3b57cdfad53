"""Background tasks of the agent itself; if one fails, the agent stops."""

from __future__ import annotations

import asyncio
from typing import Any, Coroutine

#: Key in the context of the loop's exception handler: the agent must stop.
FATAL = "ngcp_task_agent.fatal"

CANCEL_AGAIN = 1.5  # seconds; longer than any cleanup takes


def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine in the background; the caller keeps the task.

    Its exceptions go to the loop's exception handler, which stops the agent: a
    restart is better than running half alive.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(_report)
    return task


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a background task and wait until it is done.

    Cancels repeatedly: before Python 3.12, wait_for() loses a cancellation if
    its own awaitable ends at that moment.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN)


def _report(task: asyncio.Task[None]) -> None:
    if task.cancelled() or task.exception() is None:
        return
    task.get_loop().call_exception_handler(
        {
            "message": "a part of the agent has failed",
            FATAL: True,
            "exception": task.exception(),
        }
    )
