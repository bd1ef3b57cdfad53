"""The service, as an administrator uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from tests.system.machine import CONFIG, UNIT, Here, until

PING = """\
---
name: ping_10_10_10_10
backend: redis
backend_options:
    control_channel: ngcp-task-agent-redis
broker: 'command'
broker_options:
    run: ping
    as_user: root
    args: -c 2 10.10.10.10
"""
# What other users cannot forge in a record.
TRUSTED = (f"_SYSTEMD_UNIT={UNIT}", "_UID=0", "_COMM=ngcp-task-agent")
DROPIN = f"/run/systemd/system/{UNIT}.d/test.conf"


def statuses(answers: List[Dict[str, Any]]) -> List[str]:
    return [answer["status"] for answer in answers]


def drop_in(node: Here, text: str) -> None:
    """Change the unit for this test."""
    node.run("mkdir", "-p", os.path.dirname(DROPIN))
    node.write(DROPIN, text)
    node.systemctl("daemon-reload")


# The unit


def test_the_unit_is_clean(node: Here) -> None:
    path = node.property("FragmentPath")
    done = node.run("systemd-analyze", "verify", path)
    assert not done.stdout + done.stderr


def test_it_runs_and_is_enabled(node: Here) -> None:
    assert node.systemctl("is-active", UNIT) == "active"
    assert node.systemctl("is-enabled", UNIT) == "enabled"
    assert "redis: subscribed" in node.systemctl("status", UNIT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "mixed"),
        ("OOMPolicy", "continue"),
        ("Restart", "on-failure"),
        ("WatchdogUSec", "30s"),
        ("LogRateLimitIntervalUSec", "1us"),
    ],
)
def test_how_systemd_reads_it(node: Here, name: str, value: str) -> None:
    assert node.property(name) == value


def test_a_local_redis_starts_first_but_is_not_required(node: Here) -> None:
    assert "redis-server.service" in node.property("After").split()
    for name in ("Requires", "Requisite", "BindsTo", "Wants", "PartOf"):
        assert "redis" not in node.property(name)


# Requests


def test_the_documented_ping(node: Here) -> None:
    path = f"{CONFIG}/tasks/ping_10_10_10_10.yml"
    node.write(path, PING)
    node.systemctl("reload", UNIT)
    answers = node.ask("ping_10_10_10_10")
    assert statuses(answers) == ["accepted", "done"]
    assert "2 packets transmitted, 2 received" in answers[1]["data"]


def test_redis_cli_as_a_client(node: Here) -> None:
    node.task("hello", "echo", "hello")
    node.systemctl("reload", UNIT)
    listener = node.start("redis-cli", "subscribe", "fb_ctrl_7056")
    assert listener.stdout
    for _ in range(3):
        listener.stdout.readline()
    request = (
        '{"uuid": "cb88ac76-f348-4614-866f-43877b893e7e", "task": "hello",'
        ' "src": "sp1", "dst": "*", "data": null,'
        ' "options": {"feedback_channel": "fb_ctrl_7056"}}'
    )
    node.run("redis-cli", "publish", "ngcp-task-agent-redis", request)
    lines: List[str] = []
    while len(lines) < 6:
        lines.append(listener.stdout.readline().strip())
    node.run("pkill", "-x", "redis-cli")
    listener.communicate()
    answers = [json.loads(line) for line in lines[2::3]]
    assert statuses(answers) == ["accepted", "done"]
    assert answers[1]["data"] == "hello\n"


def test_a_command_of_another_user(node: Here) -> None:
    node.task("who", "id", as_user="nobody")
    node.systemctl("reload", UNIT)
    assert "uid=65534(nobody) gid=65534" in node.ask("who")[1]["data"]


def test_names_of_one_uid_have_their_own_groups(node: Here) -> None:
    add = ("useradd", "--uid", "64999", "--gid", "nogroup", "--non-unique")
    groups = {"first": "adm", "second": "mail"}
    try:
        for name, group in groups.items():
            node.run(*add, "--groups", group, name)
            node.task(name, "id", as_user=name)
        node.systemctl("reload", UNIT)
        for name, group in groups.items():
            words = node.ask(name)[1]["data"].split("groups=")[1]
            assert f"({group})" in words
            assert words.count("(") == 2
    finally:
        for name in groups:
            node.run("userdel", name, check=False)


def test_a_command_may_do_what_root_may(node: Here) -> None:
    """The unit's hardening does not restrict commands."""
    node.task("may", "cat", "/proc/self/status")
    node.systemctl("reload", UNIT)
    mine = dict(
        line.split(":\t", 1)
        for line in node.ask("may")[1]["data"].splitlines()
        if ":\t" in line
    )
    init = dict(
        line.split(":\t", 1)
        for line in node.read("/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert mine["NoNewPrivs"] == "0"
    assert mine["CapBnd"] == init["CapBnd"]
    assert mine["CapEff"] == init["CapEff"]
    assert mine["Umask"] == "0022"


def test_a_command_sees_the_files_of_the_system(node: Here) -> None:
    script = "readlink /proc/self/ns/mnt; touch /etc/t /usr/t /home/t /tmp/t"
    node.task("write", "sh", ["-c", script])
    node.systemctl("reload", UNIT)
    answers = node.ask("write")
    node.run("rm", "/etc/t", "/usr/t", "/home/t", "/tmp/t")
    assert answers[1]["data"] == node.read_link("/proc/1/ns/mnt") + "\n"


def test_a_command_inherits_nothing_from_systemd(node: Here) -> None:
    node.task("environment", "env")
    node.systemctl("reload", UNIT)
    text = node.ask("environment")[1]["data"]
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert "NGCP_TASK_UUID" in names
    assert not names & {
        *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
        *("INVOCATION_ID", "JOURNAL_STREAM", "RUNTIME_DIRECTORY"),
    }


# Reload


def test_reload_returns_when_it_is_in_force(node: Here) -> None:
    for number in range(5):
        node.task("count", "echo", [str(number)])
        node.systemctl("reload", UNIT)
        assert node.ask("count")[1]["data"] == f"{number}\n"


def test_reload_fails_for_a_faulty_file_and_the_rest_keeps_working(
    node: Here,
) -> None:
    node.task("good", "echo", "before")
    path = node.task("bad", "echo", "bad as it was")
    node.systemctl("reload", UNIT)
    cursor = node.cursor()
    node.write(path, "name: bad\nbroker: nothing\n")
    node.task("good", "echo", "after")
    done = node.run("systemctl", "reload", UNIT, check=False)
    assert done.returncode != 0
    assert node.is_active()
    assert node.journal(after=cursor).count(f"{path}:2: broker") == 1
    assert node.ask("good")[1]["data"] == "after\n"
    assert node.ask("bad")[1]["data"] == "bad as it was\n"
    node.remove(path)
    node.systemctl("reload", UNIT)
    assert statuses(node.ask("bad")) == ["rejected"]


def test_status_after_a_start_with_a_faulty_file(node: Here) -> None:
    """As soon as systemctl returns, it says what is wrong."""
    path = f"{CONFIG}/agent.yml"
    node.write(path, "node: {state: active}\nstop_timeout: soon\n")
    node.systemctl("restart", UNIT)
    wrong = "1 faulty file: agent.yml; state unknown; status unknown; redis: "
    assert f'Status: "{wrong}' in node.systemctl("status", UNIT)
    node.write(path, "node: {state: active}\n")
    node.systemctl("reload", UNIT)
    assert node.property("StatusText").startswith("redis: subscribed, ")


def test_the_hangup_signal_reloads_too(node: Here) -> None:
    node.task("late", "echo", "there")
    node.systemctl("kill", "-s", "HUP", "--kill-who=main", UNIT)
    until(lambda: statuses(node.ask("late")) == ["accepted", "done"])


def test_a_reload_keeps_the_process(node: Here) -> None:
    before = node.property("MainPID")
    node.systemctl("reload", UNIT)
    assert node.property("MainPID") == before


def test_metrics_where_node_exporter_reads_them(node: Here) -> None:
    """The folder and its owner are as Debian's package has them."""
    folder = "/var/lib/prometheus/node-exporter"
    file = f"{folder}/ngcp-task-agent.prom"
    node.run("install", "-d", "-o", "daemon", os.path.dirname(folder))
    node.run("install", "-d", folder)
    agent = f"{CONFIG}/agent.yml"
    node.write(agent, f"metrics_file: {file}\n")
    node.systemctl("reload", UNIT)
    until(lambda: node.exists(file))
    assert node.out("stat", "--format=%a %U", file) == "644 root"
    assert "\nngcp_task_agent_up 1.0\n" in node.read(file)
    node.systemctl("stop", UNIT)
    assert "\nngcp_task_agent_up 0.0\n" in node.read(file)
    node.systemctl("start", UNIT)
    until(lambda: "\nngcp_task_agent_up 1.0\n" in node.read(file))
    node.remove(agent)
    node.systemctl("reload", UNIT)
    until(lambda: node.out("ls", "-A", folder) == "")
    node.wait_for_redis()
    node.remove(os.path.dirname(folder))


# The journal


def test_the_history_of_a_request(node: Here) -> None:
    node.task("fail", "sh", ["-c", "echo first >&2; echo last >&2; exit 3"])
    node.systemctl("reload", UNIT)
    asking = node.start_asking("fail", src="web01a")
    assert statuses(asking.answers()) == ["accepted", "error"]
    # The answer is sent before its record is written.
    match = f"NGCP_TASK_UUID={asking.uuid}"
    until(lambda: len(node.records(match)) > 1)
    records = node.records(match)
    assert [record["NGCP_TASK_STATUS"] for record in records] == [
        "accepted",
        "error",
    ]
    for record in records:
        assert record["NGCP_TASK"] == "fail"
        assert record["NGCP_TASK_SRC"] == "web01a"
        assert record["SYSLOG_IDENTIFIER"] == "ngcp-task-agent"
        assert record["_SYSTEMD_UNIT"] == UNIT
    assert records[1]["NGCP_TASK_EXIT_STATUS"] == "3"
    assert int(records[1]["NGCP_TASK_DURATION_USEC"]) > 0
    assert records[1]["NGCP_TASK_STDERR"] == "last"
    assert records[1]["MESSAGE"].endswith(" exit status 3: last")
    assert node.records(match, *TRUSTED) == records
    told = node.journal("-x", f"NGCP_TASK_UUID={asking.uuid}")
    assert "Subject: A request was accepted" in told
    assert f"_COMM=ngcp-task-agent NGCP_TASK_UUID={asking.uuid}" in told
    assert "Subject: A task ended in an error" in told


def test_every_record_is_explained(node: Here) -> None:
    known = node.out("journalctl", "--list-catalog")
    # The reload command's output is also a record, but not one of the agent.
    records = node.records(f"_SYSTEMD_UNIT={UNIT}", "_TRANSPORT=journal")
    found = {record.get("MESSAGE_ID") for record in records}
    assert len(found) > 3
    assert not [x for x in found if not x or x not in known]


def test_a_journal_that_hangs(node: Here) -> None:
    """Requests are served, and logged when the journal works again."""
    node.task("hello", "echo", "hello")
    node.task("fill", "sh", ["-c", "seq 100 >&2"], log_stderr=True)
    node.systemctl("reload", UNIT)
    journald = node.property("MainPID", "systemd-journald")
    node.run("kill", "-STOP", journald)
    try:
        # More records than its socket can hold.
        filling = [node.start_asking("fill") for _ in range(10)]
        for fill in filling:
            assert statuses(fill.answers()) == ["accepted", "done"]
        assert statuses(node.ask("hello")) == ["accepted", "done"]
        assert node.is_active()
    finally:
        node.run("kill", "-CONT", journald)
    asking = node.start_asking("hello", src="last")
    asking.answers()
    match = f"NGCP_TASK_UUID={asking.uuid}"
    until(lambda: len(node.records(match)) > 1)
    for fill in filling:
        _, *lines, _ = node.records(f"NGCP_TASK_UUID={fill.uuid}")
        assert [line["NGCP_TASK_STDERR"] for line in lines] == [
            str(number) for number in range(1, 101)
        ]


def test_a_message_is_one_printable_line(node: Here) -> None:
    """Although a client puts newlines and escapes into its names."""
    node.task("hello", "echo", "hello")
    node.systemctl("reload", UNIT)
    src = "web\nMay 01 00:00:00 x: accepted\x1b[2J\u202e\xa0"
    asking = node.start_asking("hello", src=src)
    assert statuses(asking.answers()) == ["accepted", "done"]
    match = f"NGCP_TASK_UUID={asking.uuid}"
    until(lambda: len(node.records(match)) == 2)
    lines = node.journal("-q", match).split("\n")
    assert len(lines) == 2
    shown = r"web\nMay 01 00:00:00 x: accepted\x1b[2J\u202e\xa0"
    for line in lines:
        assert line.isprintable()
        assert f" hello from {shown}, request " in line
    assert "\x1b" not in node.journal("-q", "-x", match)
    for record in node.records(match):
        field = record["NGCP_TASK_SRC"]
        # The bytes of a field that is not printable.
        exact = field if isinstance(field, str) else bytes(field).decode()
        assert exact == src


def test_a_command_drops_no_record_of_another(
    node: Here, strict_journal: None
) -> None:
    """Not even if it floods the journal, as another user of the same unit."""
    flood = "yes flood | head -n 10000 | logger"
    node.task("flood", "sh", ["-c", flood], as_user="nobody")
    node.task("hello", "echo", "hello")
    node.systemctl("reload", UNIT)
    cursor = node.cursor()
    assert statuses(node.ask("flood")) == ["accepted", "done"]
    asking = node.start_asking("hello")
    assert statuses(asking.answers()) == ["accepted", "done"]
    match = f"NGCP_TASK_UUID={asking.uuid}"
    until(lambda: len(node.records(match)) == 2)
    nobodys = (f"_SYSTEMD_UNIT={UNIT}", "_UID=65534")
    assert len(node.records(*nobodys, after=cursor)) > 100
    # These are not among the agent's own.
    for record in node.records(*TRUSTED, after=cursor):
        assert record["SYSLOG_IDENTIFIER"] == "ngcp-task-agent"


@pytest.fixture
def strict_journal(node: Here) -> Iterator[None]:
    """Let the journal take few records of a service in an hour."""
    path = "/run/systemd/journald.conf.d/test.conf"
    node.run("mkdir", "-p", os.path.dirname(path))
    node.write(
        path, "[Journal]\nRateLimitIntervalSec=1h\nRateLimitBurst=100\n"
    )
    node.systemctl("restart", "systemd-journald")
    yield
    node.remove(path)
    node.systemctl("restart", "systemd-journald")


def test_a_flood_of_messages_leaves_the_records_of_tasks(node: Here) -> None:
    node.task("hello", "echo", "hello")
    node.systemctl("restart", UNIT)
    node.wait_for_redis()
    cursor = node.cursor()
    messages = [json.dumps(absent(number)) for number in range(5000)]
    lines = (f"publish ngcp-task-agent-redis '{m}'\n" for m in messages)
    node.run("redis-cli", given="".join(lines))
    asking = node.start_asking("hello")
    assert statuses(asking.answers()) == ["accepted", "done"]
    # A stop reports how many records were left out.
    node.systemctl("restart", UNIT)
    node.wait_for_redis()
    assert len(node.records(f"NGCP_TASK_UUID={asking.uuid}")) == 2
    text = node.journal(after=cursor)
    logged = text.count("rejected absent")
    assert logged < 5000
    left_out = re.findall(r"(\d+) more rejected requests", text)
    assert logged + sum(map(int, left_out)) == 5000


def absent(number: int) -> Dict[str, Any]:
    """Return a request for a task that does not exist."""
    return {
        "uuid": f"00000000-0000-0000-0000-{number:012}",
        "task": "absent",
        "src": "tests",
        "dst": "*",
        "options": {"feedback_channel": "nobody"},
    }


# Redis


def test_redis_stops_and_starts(node: Here) -> None:
    node.task("hello", "echo", "hello")
    node.systemctl("reload", UNIT)
    process = node.property("MainPID")
    node.systemctl("stop", "redis-server")
    until(lambda: "subscribed" not in node.property("StatusText"))
    assert node.is_active()
    node.systemctl("start", "redis-server")
    node.wait_for_redis()
    assert statuses(node.ask("hello")) == ["accepted", "done"]
    assert node.property("MainPID") == process


def test_it_starts_without_redis_and_recovers(node: Here) -> None:
    node.systemctl("stop", "redis-server")
    node.systemctl("restart", UNIT)
    assert node.is_active()
    assert not node.is_active("redis-server")
    node.systemctl("start", "redis-server")
    node.wait_for_redis()
    assert statuses(node.ask("no_such_task")) == ["rejected"]


# Ends


def test_a_stop_answers_and_leaves_no_process(node: Here) -> None:
    node.write(f"{CONFIG}/agent.yml", "stop_timeout: 2\n")
    script = "trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done"
    node.task("stubborn", "sh", ["-c", script])
    node.systemctl("reload", UNIT)
    asking = node.start_asking("stubborn")
    assert asking.next()["status"] == "accepted"
    until(lambda: len(node.cgroup()) > 2)
    node.systemctl("stop", UNIT)
    [answer] = asking.answers()
    assert answer["status"] == "error"
    assert "stopping" in answer["reason"]
    assert not node.cgroup()
    assert node.property("Result") == "success"


def test_a_crash_is_followed_by_a_start(node: Here) -> None:
    node.task("long", "sleep", ["1000"])
    node.systemctl("reload", UNIT)
    asking = node.start_asking("long")
    assert asking.next()["status"] == "accepted"
    process = node.property("MainPID")
    [command] = set(node.cgroup()) - {int(process)}
    node.run("kill", "-KILL", process)
    until(lambda: node.property("MainPID") not in ("0", process))
    until(node.is_active)
    assert command not in node.cgroup()
    # The client of that request must not wait for an answer that never comes.
    ending = json.dumps({"ref": asking.uuid, "status": "error"})
    node.run("redis-cli", "publish", f"tests-{asking.uuid}", ending)
    asking.answers()
    node.wait_for_redis()
    assert statuses(node.ask("no_such_task")) == ["rejected"]


def test_nothing_to_run_causes_no_restart_loop(node: Here) -> None:
    node.run("mv", f"{CONFIG}/backends", f"{CONFIG}/elsewhere")
    done = node.run("systemctl", "restart", UNIT, check=False)
    assert done.returncode != 0
    assert node.property("ExecMainStatus") == "78"
    # Longer than RestartSec.
    time.sleep(4)
    assert node.property("ActiveState") == "failed"
    assert node.property("NRestarts") == "0"


def test_the_watchdog_kills_and_shows_a_hang(node: Here) -> None:
    node.run("mkdir", "-p", "/run/hang")
    node.write(
        "/run/hang/sitecustomize.py",
        "import signal, time\n"
        "def hang_here(*_):\n"
        "    time.sleep(100000)\n"
        "signal.signal(signal.SIGUSR2, hang_here)\n",
    )
    drop_in(
        node,
        "[Service]\nEnvironment=PYTHONPATH=/run/hang\nWatchdogSec=10\n",
    )
    node.systemctl("restart", UNIT)
    cursor = node.cursor()
    process = node.property("MainPID")
    node.run("kill", "-USR2", process)
    until(lambda: node.property("MainPID") not in ("0", process))
    until(node.is_active)
    told = node.journal(after=cursor)
    assert "Watchdog timeout" in told
    assert "hang_here" in told
    assert "ngcp_task_agent" in told
    node.remove("/run/hang")


EAT = """\
import os, sys, time
while not os.path.exists("/run/eat"):
    time.sleep(0.05)
food = []
while True:
    food.append(bytearray(1 << 20))
"""


@pytest.fixture
def _table(node: Here) -> Iterator[None]:
    yield
    node.remove("/run/eat")
    node.run("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=")


@pytest.mark.usefixtures("_table")
def test_a_command_killed_for_memory_affects_no_other(
    node: Here, tmp_path: Path
) -> None:
    node.task("eat", "python3", ["-c", EAT])
    node.systemctl("reload", UNIT)
    process = node.property("MainPID")
    asking = node.start_asking("eat")
    assert asking.next()["status"] == "accepted"
    until(lambda: len(node.cgroup()) > 1)
    with MemoryLimit(node, tmp_path / "memory"):
        node.write("/run/eat", "")
        [answer] = asking.answers()
    assert answer["status"] == "error"
    assert "SIGKILL" in answer["reason"]
    assert node.is_active()
    assert node.property("MainPID") == process
    assert statuses(node.ask("no_such_task")) == ["rejected"]


class MemoryLimit:
    """Makes the kernel kill the service's command for its memory use.

    With the unit's limit, so that systemd notices too, if systemd manages the
    memory controller.  If it belongs to version 1 cgroups, with one of those.
    """

    LIMIT = 256 << 20

    def __init__(self, node: Here, mount: Path) -> None:
        self._node = node
        self._mount = mount
        self._group = mount / "ngcp-task-agent-tests"

    def __enter__(self) -> None:
        node = self._node
        controllers = node.read("/sys/fs/cgroup/cgroup.controllers")
        if "memory" in controllers.split():
            node.systemctl(
                *("set-property", "--runtime", UNIT),
                *(f"MemoryMax={self.LIMIT}", "MemorySwapMax=0"),
            )
            return
        self._mount.mkdir()
        subprocess.run(
            ["mount", "-t", "cgroup", "-o", "memory", "cgroup", self._mount],
            check=True,
        )
        self._group.mkdir()
        (self._group / "memory.limit_in_bytes").write_text(str(self.LIMIT))
        for status in Path("/proc").glob("[0-9]*/status"):
            if b"/run/eat" in (status.parent / "cmdline").read_bytes():
                (self._group / "cgroup.procs").write_text(status.parent.name)

    def __exit__(self, *_: object) -> None:
        if self._mount.exists():
            until(lambda: not (self._group / "cgroup.procs").read_text())
            self._group.rmdir()
            subprocess.run(["umount", self._mount], check=True)
