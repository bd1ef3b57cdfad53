"""Sizes in bytes."""

from __future__ import annotations

import re
from typing import Union

import pytest

from ngcp_task_agent.sizes import SIZE_SCHEMA, parse_size

SIZES = [
    pytest.param(65536, 65536, id="number"),
    pytest.param(0, 0, id="nothing"),
    pytest.param("65536", 65536, id="digits"),
    pytest.param("512K", 512 * 1024, id="K"),
    pytest.param("8M", 8 << 20, id="M"),
    pytest.param("1G", 1 << 30, id="G"),
]


@pytest.mark.parametrize(("size", "expected"), SIZES)
def test_size(size: Union[int, str], expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", ["", "M", "8 M", "8MB", "8m", "-1", "1.5M", "8M\n", "1" * 16]
)
def test_pattern_refuses(size: str) -> None:
    assert not re.search(SIZE_SCHEMA["pattern"], size)
