"""Fixtures with a systemd of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from tests.bus import PrivateBus
from tests.fake_systemd import FakeSystemd


@pytest.fixture
def systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeSystemd]:
    """What stands for systemd, on what stands for the system bus."""
    bus = PrivateBus(tmp_path)
    bus.start()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    monkeypatch.delenv("NGCP_TASK_AGENT_SLICE", raising=False)
    fake = FakeSystemd(bus, tmp_path)
    fake.start()
    yield fake
    fake.stop()
    bus.stop()
