"""Bounds: so many in a window, then the count of the others."""

from __future__ import annotations

from typing import List

import pytest

from ngcp_task_agent.logs.bound import Bound
from tests.unit.fakes import until


@pytest.fixture
def reported() -> List[int]:
    return []


async def test_so_many_pass(reported: List[int]) -> None:
    bound = Bound(3, 600, reported.append)
    assert [bound.take() for _ in range(5)] == [1, 1, 1, 0, 0]
    bound.end()
    assert reported == [2]
    # The next window.
    assert [bound.take() for _ in range(4)] == [1, 1, 1, 0]
    bound.end()
    assert reported == [2, 1]


async def test_several_at_once(reported: List[int]) -> None:
    bound = Bound(10, 600, reported.append)
    assert [bound.take(count) for count in (4, 0, 100, 7)] == [4, 0, 6, 0]
    bound.end()
    assert reported == [101]


async def test_nothing_to_report(reported: List[int]) -> None:
    bound = Bound(3, 600, reported.append)
    bound.end()
    assert bound.take(3) == 3
    bound.end()
    bound.end()
    assert reported == []


async def test_a_window_ends_by_itself(reported: List[int]) -> None:
    """Even if nothing more comes."""
    bound = Bound(1, 0.05, reported.append)
    assert bound.take(4) == 1
    await until(lambda: reported == [3])
    assert bound.take(2) == 1
    await until(lambda: reported == [3, 1])
