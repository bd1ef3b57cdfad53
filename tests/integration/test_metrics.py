"""The metrics file of a real agent."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import ConfigFolder
from tests.parts import Client, Daemon, RedisServer, wait_for

Start = Callable[..., Daemon]


@pytest.fixture
def file(folder: Path) -> Path:
    place = folder / "metrics"
    place.mkdir(mode=0o755)
    return place / "agent.prom"


def values(file: Path) -> Dict[str, float]:
    """Return what the file says, by names with labels; empty without one."""
    if not file.exists():
        return {}
    return {
        " ".join(
            [
                sample.name.replace("ngcp_task_agent_", "", 1),
                *(v for k, v in sorted(sample.labels.items()) if k != "le"),
            ]
        ): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def says(daemon: Daemon, file: Path, name: str, value: float) -> None:
    """Reload, which writes the file, and wait until it says this."""
    daemon.reload()
    wait_for(lambda: values(file).get(name) == value)


def test_requests_are_counted(
    config: ConfigFolder,
    start: Start,
    client: Client,
    server: RedisServer,
    file: Path,
) -> None:
    config.task("ping", "true")
    config.task("fail", "false")
    config.task("never", "true")
    config.agent(node={"name": "sp1"}, metrics_file=str(file))
    daemon = start()
    wait_for(file.exists)
    assert values(file)["up"] == 1
    for _ in range(3):
        client.ask("ping")
    client.ask("fail")
    client.ask("nope")
    client.ask("ngcp.ping")
    client.send("ping", dst="elsewhere")
    daemon.wait_for_log("ignored ping")
    says(daemon, file, "received_total", 7)
    found = values(file)
    expected = {
        "backend_up redis": 1,
        "jobs running": 0,
        "jobs queued": 0,
        "received_total": 7,
        "requests_total ignored": 1,
        "requests_total rejected": 1,
        "requests_total accepted": 5,
        "rejections_total other": 1,
        "rejections_total busy": 0,
        "rejections_total duplicate": 0,
        "endings_total done": 4,
        "endings_total error": 1,
        "task_requests_total accepted ping": 3,
        "task_endings_total done ping": 3,
        "task_endings_total error fail": 1,
        "task_requests_total accepted never": 0,
        "task_endings_total error never": 0,
        "task_requests_total accepted ngcp.ping": 1,
        "task_duration_seconds_count ping": 3,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["task_duration_seconds_sum ping"] > 0
    assert [n for n in found if n.startswith("build_info sp1 ")]
    assert file.stat().st_mode & 0o777 == 0o644
    assert os.listdir(file.parent) == [file.name]


def test_what_runs_and_what_is_away(
    config: ConfigFolder,
    start: Start,
    client: Client,
    server: RedisServer,
    file: Path,
    wait_for_slow: Any,
) -> None:
    config.agent(node={"name": "sp1"}, metrics_file=str(file))
    daemon = start()
    client.send("slow")
    wait_for_slow()
    says(daemon, file, "jobs running", 1)
    server.kill()
    daemon.wait_for_log("is away")
    says(daemon, file, "backend_up redis", 0)
    server.start()


def test_reloads_and_stop(
    config: ConfigFolder, start: Start, client: Client, file: Path
) -> None:
    config.task("ping", "true")
    daemon = start()
    assert not file.exists()
    config.agent(metrics_file=str(file))
    daemon.reload()
    wait_for(file.exists)
    other = file.with_name("other.prom")
    config.agent(metrics_file=str(other))
    daemon.reload()
    wait_for(other.exists)
    assert not file.exists()
    config.agent()
    daemon.reload()
    wait_for(lambda: not other.exists())
    config.agent(metrics_file=str(file))
    daemon.reload()
    wait_for(file.exists)
    client.ask("ping")
    assert daemon.stop() == 0
    # The last requests are in it, too.
    found = values(file)
    assert found["up"] == 0
    assert found["endings_total done"] == 1
    assert os.listdir(file.parent) == [file.name]


def test_a_folder_that_is_not_there(
    config: ConfigFolder, start: Start, client: Client, file: Path
) -> None:
    config.task("ping", "true")
    config.agent(metrics_file=str(file))
    file.parent.rmdir()
    daemon = start()
    daemon.wait_for_log(f"metrics cannot be written to {file}: No such file")
    assert client.ask("ping")[-1]["status"] == "done"
    file.parent.mkdir()
    daemon.reload()
    daemon.wait_for_log(f"metrics are written to {file} again")
    assert values(file)["endings_total done"] == 1
    # It can be killed at any time.
    daemon.process.send_signal(signal.SIGKILL)
    assert daemon.stop() == -signal.SIGKILL
    assert values(file)["up"] == 1
