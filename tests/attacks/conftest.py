"""Fixtures for the attacks: those of the integration tests, and a target."""

from __future__ import annotations

from typing import Any, Callable, Iterator, List

import pytest

from tests.integration.conftest import (
    ConfigFolder,
    client,
    config,
    connect,
    folder,
    scripted,
    server,
    start,
)
from tests.parts import Client, Daemon, statuses

__all__ = (
    "attacked",
    "client",
    "config",
    "connect",
    "folder",
    "scripted",
    "server",
    "start",
)


@pytest.fixture
def attacked(
    config: ConfigFolder,
    start: Callable[..., Daemon],
    connect: Callable[..., Client],
) -> Iterator[Callable[..., Daemon]]:
    """Start the daemon; at the end it must still serve, and show no bug.

    A daemon that the test has stopped need not.  The task ``ping`` does
    nothing.
    """
    daemons: List[Daemon] = []

    def attacked(*options: str, **keys: Any) -> Daemon:
        config.task("ping", "true", max_queued=1000)
        daemon = start(*options, **keys)
        assert daemon.process.poll() is None, daemon.text()
        daemons.append(daemon)
        return daemon

    yield attacked
    for daemon in daemons:
        if daemon.process.poll() is None:
            assert statuses(connect().ask("ping")) == ["accepted", "done"]
        assert daemon.stop() == 0
        text = daemon.text()
        assert "Traceback" not in text, text
        assert "a bug" not in text, text
