"""Background tasks of the agent itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, List

import pytest

from ngcp_task_agent import background
from tests.unit.fakes import until


def reported() -> List[Any]:
    contexts: List[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    return contexts


async def test_ends() -> None:
    contexts = reported()
    await background.start(asyncio.sleep(0))
    task = background.start(asyncio.sleep(600))
    await background.end(task)
    assert task.cancelled()
    # Ending it again is harmless.
    await background.end(task)
    assert contexts == []


async def test_an_error_is_reported() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    contexts = reported()
    task = background.start(fail())
    await until(lambda: contexts)
    (context,) = contexts
    assert isinstance(context["exception"], ZeroDivisionError)
    await background.end(task)


async def test_a_lost_cancellation_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when wait_for() loses it because its own awaitable ends."""
    monkeypatch.setattr(background, "CANCEL_AGAIN", 0.01)
    lost = asyncio.Event()

    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        lost.set()
        await asyncio.Event().wait()

    task = background.start(work())
    await asyncio.sleep(0)
    await asyncio.wait_for(background.end(task), 30)
    assert lost.is_set()
    assert task.cancelled()
