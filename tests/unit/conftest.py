"""Fixtures of the unit tests."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ngcp_task_agent.backends import backoff
from ngcp_task_agent.process import users
from tests.bus import PrivateBus
from tests.unit.fakes import Records

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # No deadline: the machine may be busy.  Always the same examples: a build
    # must not fail by chance.
    settings.register_profile(
        "unit", deadline=None, database=None, derandomize=True
    )
    settings.load_profile("unit")


@pytest.fixture
def journal_records(caplog: pytest.LogCaptureFixture) -> Records:
    """The agent's journal records, from DEBUG on."""
    caplog.set_level(logging.DEBUG, "ngcp_task_agent")
    return Records(caplog)


@pytest.fixture
def users_looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test use what another one's name service has answered."""
    monkeypatch.setattr(users, "KEPT_FOR", 0.0)


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., str]:
    """Make an executable file, by default a shell script."""

    def make(text: str, name: str = "program", mode: int = 0o755) -> str:
        path = tmp_path / name
        if not text.startswith("#!"):
            text = f"#!/bin/sh\n{text}\n"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return make


@pytest.fixture
def private_bus(tmp_path: Path) -> Iterator[PrivateBus]:
    bus = PrivateBus(tmp_path)
    bus.start()
    yield bus
    bus.stop()


@pytest.fixture
def agent_logger() -> Iterator[Any]:
    """Restore the loggers afterwards."""
    root = logging.getLogger()
    own = logging.getLogger("ngcp_task_agent")
    handlers, level, own_level = list(root.handlers), root.level, own.level
    yield root
    root.handlers = handlers
    root.setLevel(level)
    own.setLevel(own_level)


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try to reconnect without a delay."""
    monkeypatch.setattr(backoff, "LONGEST_WAIT", 0.02)
