"""ngcp-invoke-task, as installed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.system.machine import UNIT, Here, until


def test_data_on_standard_output(node: Here) -> None:
    node.task("hello", "echo", "hello")
    node.systemctl("reload", UNIT)
    done = node.run("ngcp-invoke-task", "--task", "hello")
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_the_voicemail_hook(node: Here) -> None:
    """Called with the hook's arguments, it passes the data to the command."""
    node.task("transcribe_voicemail", "cat", stdin="data")
    node.systemctl("reload", UNIT)
    data = '{"msgnum":1,"uuid":"cb88ac76-f348-4614-866f-43877b893e7e"}'
    printed = node.shell(
        "ngcp-invoke-task --task transcribe_voicemail --dst localhost "
        '--data "$1" 2>&1 </dev/null',
        data,
    )
    assert json.loads(printed) == json.loads(data)


def test_exit_statuses(node: Here) -> None:
    node.task("fails", "false")
    node.systemctl("reload", UNIT)

    def status(*words: str) -> int:
        done = node.run("ngcp-invoke-task", *words, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode

    assert status("--task", "fails") == 1
    assert status("--nope") == 2
    assert status("--task", "no-such-task") == 3
    assert status("--task", "fails", "--dst", "elsewhere") == 4
    assert status("--task", "fails", "--url", "redis://127.0.0.1:1") == 69


def test_request_in_the_journal(node: Here) -> None:
    node.task("hello", "echo", "hello")
    node.systemctl("reload", UNIT)
    printed = node.out(
        "ngcp-invoke-task", "--task", "hello", "--output", "json"
    )
    outcome = json.loads(printed)
    assert outcome["status"] == "done"
    until(lambda: len(node.records(f"NGCP_TASK_UUID={outcome['uuid']}")) == 2)


def test_completion(node: Here) -> None:
    node.task("hello_from_completion", "true")
    completions = node.complete("ngcp-invoke-task", "--task", "hello_fr")
    assert completions == ["hello_from_completion"]


@pytest.mark.parametrize("broker", ["command", "systemd"])
def test_who_is_there_what_runs_and_its_end(node: Here, broker: str) -> None:
    def ask(*words: str) -> Any:
        words = ("ngcp-invoke-task", *words, "--output", "json")
        return json.loads(node.out(*words))

    node.task("nap", "sleep", ["4321"], broker=broker)
    node.systemctl("reload", UNIT)
    asking = node.start_asking("nap")
    assert asking.next()["status"] == "accepted"
    (found,) = ask("--nodes")["nodes"]
    assert (found["running"], found["queued"]) == (1, 0)
    assert "nap" in [task["name"] for task in ask("--tasks")["tasks"]]
    (job,) = ask("--jobs")["jobs"]
    assert (job["task"], job["state"]) == ("nap", "running")
    pid = until(lambda: ask("--jobs")["jobs"][0]["pid"])
    assert node.exists(f"/proc/{pid}")
    said = node.run("ngcp-invoke-task", "--cancel", job["uuid"])
    assert found["name"] in f"{said.stdout}{said.stderr}"
    [ending] = asking.answers()
    assert ending["status"] == "error"
    assert ending["reason"].startswith("cancelled by ")
    assert not node.exists(f"/proc/{pid}")
