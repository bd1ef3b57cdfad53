"""Plugins: our own and those of other packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.brokers.base import Broker, Work
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.config import plugins
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.logs import journal
from ngcp_task_agent.protocol.messages import Request
from tests.unit.fakes import FakeBroker, Records, write


class NoSchema(Broker):
    def prepare(self, request: Request) -> Work:
        raise Rejected("never")


class BadSchema(NoSchema):
    options_schema = {"minimum": "0"}


def test_our_own() -> None:
    found = plugins.installed()
    assert found.backends["redis"] is RedisBackend
    assert found.brokers["command"] is CommandBroker


def test_other_packages(
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
        "missing = no_such_module:X\n"
        "no_class = tests.unit.fakes:write\n"
        "no_broker = tests.unit.fakes:FakeWork\n"
        "abstract = ngcp_task_agent.brokers.base:Broker\n"
        "no_schema = tests.unit.config.test_plugins:NoSchema\n"
        "bad_schema = tests.unit.config.test_plugins:BadSchema\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugins.installed().brokers
    assert found["fake"] is FakeBroker
    # Our own row stays.
    assert found["command"] is CommandBroker
    assert set(found) == {"fake", "agent", "command", "systemd"}
    texts = journal_records.texts(journal.CONFIG_WARNING)
    assert len(texts) == 7
    assert any("broken cannot be used" in text for text in texts)
    assert any("does not implement prepare" in text for text in texts)
