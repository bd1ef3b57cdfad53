"""Fixtures with a message bus."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from tests.bus import PrivateBus


@pytest.fixture
def private_bus(tmp_path: Path) -> Iterator[PrivateBus]:
    bus = PrivateBus(tmp_path)
    bus.start()
    yield bus
    bus.stop()
