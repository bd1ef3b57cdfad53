"""What the tests of the redis backend share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.resp import Server


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server that is not started yet, at a unix socket."""
    return Server(tmp_path)
