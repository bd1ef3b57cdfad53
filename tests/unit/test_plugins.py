"""Plugins: our own and those of other packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from ngcp_task_agent import journal, plugins
from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.brokers.command import CommandBroker
from tests.unit.fakes import FakeBroker, Records, write


def test_our_own() -> None:
    found = plugins.find()
    assert found.backends["redis"] is RedisBackend
    assert found.brokers["command"] is CommandBroker


def test_of_other_packages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    write(tmp_path / "other-1.0.dist-info/METADATA", "Name: other\n")
    write(
        tmp_path / "other-1.0.dist-info/entry_points.txt",
        "[ngcp_task_agent.brokers]\n"
        "fake = tests.unit.fakes:FakeBroker\n"
        "command = tests.unit.fakes:FakeBroker\n"
        "broken = tests.unit.fakes:NoSuchClass\n"
        "missing = no_such_module:X\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugins.find().brokers
    assert found["fake"] is FakeBroker
    # A row of our own stays.
    assert found["command"] is CommandBroker
    assert "broken" not in found
    assert "missing" not in found
    texts = journal_records.texts(journal.CONFIG_WARNING)
    assert len(texts) == 2
    assert any("broken cannot be loaded" in text for text in texts)
