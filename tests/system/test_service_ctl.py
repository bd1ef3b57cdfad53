"""ngcp-task-agentctl, as installed."""

from __future__ import annotations

import json
import subprocess
from typing import Any, List

import pytest

from tests.system.machine import CONFIG, UNIT, Here, as_user, until
from tests.system.test_service_bus import bad_file

CTL = "ngcp-task-agentctl"


@pytest.fixture(scope="module")
def node(shared: Here) -> Here:
    shared.task("hello", "echo", "hello")
    shared.task("fail", "sh", ["-c", "echo why >&2; exit 3"])
    shared.task("long", "sleep", ["1000"])
    shared.systemctl("reload", UNIT)
    return shared


def ctl(node: Here, *words: str) -> str:
    return node.run(CTL, *words).stdout


def as_json(node: Here, *words: str) -> Any:
    return json.loads(ctl(node, *words, "--json"))


def failing(
    node: Here, *words: str, user: str = "root"
) -> subprocess.CompletedProcess[str]:
    done = node.run_as(user, CTL, *words, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_status(node: Here) -> None:
    found = as_json(node, "status")
    name = node.out("hostname")
    assert found["node"]["name"] == name
    assert {"hello", "long"} < {task["name"] for task in found["tasks"]}
    [backend] = found["backends"]
    assert (backend["name"], backend["state"]) == ("redis", "subscribed")
    text = ctl(node, "status")
    assert name in text
    assert "subscribed" in text


def test_status_without_an_agent(node: Here) -> None:
    node.systemctl("stop", UNIT)
    try:
        assert "inactive (dead)" in failing(node, "status").stdout
        assert "no agent" in failing(node, "jobs").stderr
    finally:
        node.systemctl("start", UNIT)
        node.wait_for_redis()


def test_tasks(node: Here) -> None:
    [row] = [
        line.split()
        for line in ctl(node, "tasks").splitlines()
        if line.startswith("hello ")
    ]
    assert row[:3] == ["hello", "redis", "ngcp-task-agent-redis"]


def test_jobs_and_cancel(node: Here) -> None:
    asking = node.start_asking("long", src="web01a")
    assert asking.next()["status"] == "accepted"
    [job] = as_json(node, "jobs")
    assert (job["uuid"], job["src"]) == (asking.uuid, "web01a")
    assert asking.uuid in ctl(node, "jobs")
    assert asking.uuid in complete(node, "cancel", "")
    assert asking.uuid in ctl(node, "cancel", asking.uuid)
    [answer] = asking.answers()
    assert answer["reason"] == "cancelled by root"
    assert as_json(node, "jobs") == []
    done = failing(node, "cancel", asking.uuid)
    assert asking.uuid in done.stderr


def test_reload_and_check(node: Here) -> None:
    ctl(node, "reload")
    ctl(node, "check")
    with bad_file(node, "bad"):
        fault = f"{CONFIG}/tasks/bad.yml:2: broker: "
        done = failing(node, "reload")
        assert fault in done.stdout + done.stderr
        done = failing(node, "check")
        assert fault in done.stdout + done.stderr
    ctl(node, "reload")


def test_log(node: Here) -> None:
    asking = node.start_asking("fail", src="web01a")
    asking.answers()
    match = f"NGCP_TASK_UUID={asking.uuid}"
    until(lambda: len(node.records(match)) == 2)
    heading, accepted, failed = ctl(node, "log", asking.uuid).splitlines()
    assert asking.uuid in heading
    assert "web01a" in heading
    assert "accepted" in accepted
    assert "exit status 3" in failed
    assert asking.uuid in ctl(
        node, "log", "--task", "fail", "--since", "-5min"
    )
    assert asking.uuid not in ctl(node, "log", "--task", "hello")


def test_log_follows(node: Here) -> None:
    following = node.start(CTL, "log", "--follow", "--task", "hello")
    assert following.stdout
    asking = node.start_asking("hello")
    asking.answers()
    line = ""
    while asking.uuid not in line or " done" not in line:
        line = following.stdout.readline()
        assert line, "it has ended"
    node.run("pkill", "-f", f"{CTL} log --follo[w]")
    following.communicate()


def test_a_forged_record_is_not_shown(node: Here) -> None:
    forge = (
        "from systemd import journal\n"
        "journal.send('done', SYSLOG_IDENTIFIER='ngcp-task-agent', "
        "NGCP_TASK='forged', NGCP_TASK_STATUS='done', "
        "NGCP_TASK_UUID='cb88ac76-f348-4614-866f-43877b893e7e')\n"
    )
    node.run(*as_user("nobody"), "python3", "-c", forge)
    until(lambda: node.records("NGCP_TASK=forged"))
    assert ctl(node, "log", "--task", "forged") == ""


@pytest.mark.parametrize("command", ["status", "tasks", "jobs", "reload"])
def test_a_user_without_rights(node: Here, command: str) -> None:
    done = failing(node, command, user="nobody")
    assert done.returncode == 77
    assert "root" in done.stderr


def test_completion(node: Here) -> None:
    assert complete(node, "st") == ["status"]
    assert "hello" in complete(node, "log", "--task", "he")


def complete(node: Here, *words: str) -> List[str]:
    """Return what bash offers after the program's name and these words."""
    script = """
        source /usr/share/bash-completion/bash_completion
        _completion_loader "$1" ||
            source "/usr/share/bash-completion/completions/$1"
        COMP_WORDS=("$@") COMP_LINE="$*" COMP_TYPE=9
        COMP_POINT=${#COMP_LINE} COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1" | sed 's/.* -F \\([^ ]*\\).*/\\1/')
        compopt() { :; }
        "$function" "$1" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    printed = node.out("bash", "-c", script, "bash", CTL, *words)
    return [word.strip() for word in printed.split("\n")]
