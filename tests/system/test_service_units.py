"""The broker systemd: runs as units, and acts on units."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from typing import Any, Dict, Iterator, List, Sequence

import pytest

from tests.system.machine import CONFIG, UNIT, Asking, Here, until
from tests.system.test_service import TRUSTED, statuses
from tests.system.test_service_bus import busctl, error, jobs, kill_second

SLICE = "system-ngcptask.slice"
# Starts processes that ignore SIGTERM and have left their session and parent.
STUBBORN = """\
trap '' TERM
for n in 1 2 3; do
    (setsid sh -c "trap '' TERM; while :; do sleep 1; done" &)
done
echo started
while :; do sleep 1; done
"""
SECRET = "correct horse battery staple"
# Sends a request many times at once; prints each ending.
MANY = """
import json, sys, time, uuid
import redis
task, number = sys.argv[1], int(sys.argv[2])
client = redis.Redis(host="127.0.0.1")
answers = client.pubsub(ignore_subscribe_messages=True)
answers.subscribe("tests-many")
answers.get_message(timeout=5)
for _ in range(number):
    client.publish("ngcp-task-agent-redis", json.dumps({
        "uuid": str(uuid.uuid4()), "task": task, "src": "tests", "dst": "*",
        "options": {"feedback_channel": "tests-many"}}))
deadline = time.monotonic() + 100
while number and time.monotonic() < deadline:
    got = answers.get_message(timeout=1)
    answer = json.loads(got["data"]) if got else {"status": "accepted"}
    if answer["status"] != "accepted":
        print(json.dumps(answer))
        number -= 1
"""
# Units that tasks act on, and what is in their section Service.
SERVICES = {
    "t-good": "ExecStart=/bin/sleep 1000\nExecReload=/bin/true",
    "t-plain": "ExecStart=/bin/sleep 1000",
    "t-fails": "Type=oneshot\nExecStart=/bin/sh -c 'echo it broke; exit 3'",
    "t-dies": "ExecStart=/bin/false",
    "t-slow": "Type=oneshot\nExecStart=/bin/sleep 1000",
}


@pytest.fixture(scope="module")
def node(shared: Here) -> Iterator[Here]:
    """A node with tasks for this module."""
    for name, section in SERVICES.items():
        shared.write(
            f"/run/systemd/system/{name}.service",
            f"[Unit]\nStartLimitIntervalSec=0\n[Service]\n{section}\n",
        )
    shared.write(
        "/run/systemd/system/t-condition.service",
        "[Unit]\nConditionPathExists=/nonexistent\n"
        "[Service]\nExecStart=/bin/sleep 1000\n",
    )
    shared.systemctl("mask", "--runtime", "t-masked.service")
    shared.systemctl("daemon-reload")
    run(shared, "hello", "echo", ["hello"])
    run(shared, "fails", "sh", ["-c", "echo why >&2; exit 3"])
    run(shared, "killed", "sh", ["-c", "kill -SEGV $$"])
    run(shared, "absent", "/nonexistent/program")
    run(shared, "long", "sleep", ["1000"])
    run(shared, "stubborn", "sh", ["-c", STUBBORN])
    run(shared, "short-of-time", "sh", ["-c", STUBBORN], timeout=1)
    yield shared
    for path in ("t-*.service", "ngcp-task-*"):
        shared.shell(f"rm -rf /run/systemd/system/{path}")
    shared.shell("systemctl stop 't-*' || :")


def run(
    node: Here,
    name: str,
    program: str,
    args: Sequence[str] = (),
    **options: Any,
) -> None:
    """Write a task that runs a command as a unit, and reload."""
    node.task(name, program, args, broker="systemd", **options)
    node.systemctl("reload", UNIT)


def result(node: Here, task: str, **request: Any) -> Dict[str, Any]:
    """Return a request's ending."""
    return node.ask(task, **request)[-1]


def started(node: Here, task: str, **request: Any) -> Asking:
    asking = node.start_asking(task, **request)
    assert asking.next()["status"] == "accepted"
    return asking


def units(node: Here) -> List[str]:
    """Return the units of runs, whatever their state."""
    text = node.systemctl(
        *("list-units", "--all", "--plain", "--no-legend", "ngcp-task-*"),
    )
    return [
        line.split()[0]
        for line in text.splitlines()
        if not line.startswith(UNIT)
    ]


def processes(node: Here) -> List[str]:
    """Return the processes of all runs."""
    return node.shell(
        f"find /sys/fs/cgroup/system.slice/{SLICE} -name cgroup.procs "
        "-exec cat {} + 2>/dev/null || :"
    ).split()


@pytest.fixture(autouse=True)
def _leaves_no_unit(node: Here) -> Iterator[None]:
    yield
    try:
        until(lambda: not units(node), within=5)
        assert not processes(node)
    finally:
        node.systemctl("stop", SLICE)


# Runs


def test_a_run(node: Here) -> None:
    answers = node.ask("hello")
    assert statuses(answers) == ["accepted", "done"]
    assert answers[1]["data"] == "hello\n"


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("fails", "exit status 3: why"),
        ("killed", "SIGSEGV"),
        ("absent", "/nonexistent/program"),
    ],
)
def test_a_run_that_fails(node: Here, task: str, reason: str) -> None:
    answer = result(node, task)
    assert answer["status"] == "error"
    assert reason in answer["reason"]


def test_a_run_past_its_timeout_leaves_no_process(node: Here) -> None:
    answer = result(node, "short-of-time")
    assert answer["status"] == "error"
    assert re.search("time|1 s", answer["reason"])
    assert answer.get("data") in (None, "started\n")
    assert not processes(node)


def test_fifty_at_once(node: Here) -> None:
    text = node.out("python3", "-c", MANY, "hello", "50")
    answers = [json.loads(line) for line in text.splitlines()]
    assert len({answer["ref"] for answer in answers}) == 50
    assert {answer["data"] for answer in answers} == {"hello\n"}
    assert statuses(answers) == ["done"] * 50


def test_input_and_arguments(node: Here) -> None:
    script = 'cat; printf " %s" "$@" \'$HOME\' "$NGCP_TASK_SRC"'
    run(
        node,
        "input",
        "sh",
        ["-c", script, "sh"],
        stdin="data",
        extra_args=True,
    )
    data = {"extra_args": ["$PATH %n", "é"]}
    answer = result(node, "input", data=data, src="web01a")
    read, _, words = answer["data"].partition("} ")
    assert json.loads(read + "}") == data
    assert words == "$PATH %n é $HOME web01a"


def test_another_user(node: Here) -> None:
    run(node, "who", "sh", ["-c", "id; env"], as_user="nobody")
    text = result(node, "who")["data"]
    assert text.startswith("uid=65534(nobody) gid=65534")
    assert "\nUSER=nobody\n" in text


def test_a_task_name_that_no_unit_may_have(node: Here) -> None:
    name = "../up grade%i-" + "é" * 110
    node.write_task(name, "systemd", "odd", run="echo", args=["odd"])
    node.systemctl("reload", UNIT)
    assert result(node, name)["data"] == "odd\n"


def test_properties(node: Here) -> None:
    """systemd has them, and they bind the command."""
    script = "ulimit -n; nice; umask; touch /etc/t || echo read-only; sleep 99"
    run(
        node,
        "bound",
        "sh",
        ["-c", script],
        max_output="1K",
        properties={
            "MemoryMax": "512M",
            "TasksMax": 20,
            "CPUQuota": "50%",
            "CPUWeight": 50,
            "Nice": 5,
            "LimitNOFILE": 512,
            "UMask": "0027",
            "PrivateTmp": True,
            "ProtectSystem": "strict",
            "RuntimeMaxSec": "1min 30s",
            "CapabilityBoundingSet": ["CAP_NET_ADMIN", "CAP_CHOWN"],
            "RestrictAddressFamilies": "AF_UNIX",
        },
    )
    asking = started(node, "bound")
    [unit] = until(lambda: units(node))
    until(lambda: node.shell("pgrep -fx 'sleep 99' || :"))
    shown = dict(
        line.partition("=")[::2]
        for line in node.systemctl("show", unit).splitlines()
    )
    expected = {
        "MemoryMax": str(512 << 20),
        "TasksMax": "20",
        "CPUQuotaPerSecUSec": "500ms",
        "CPUWeight": "50",
        "Nice": "5",
        "LimitNOFILE": "512",
        "LimitNOFILESoft": "512",
        "UMask": "0027",
        "PrivateTmp": "yes",
        "ProtectSystem": "strict",
        "RuntimeMaxUSec": "1min 30s",
        "RestrictAddressFamilies": "AF_UNIX",
        "Slice": SLICE,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert sorted(shown["CapabilityBoundingSet"].split()) == [
        *("cap_chown", "cap_net_admin"),
    ]
    # Its output is not there until it ends: a second run shows it.
    busctl(node, "Cancel", asking.uuid)
    [answer] = asking.answers()
    assert answer["reason"] == "cancelled by root"
    assert answer["data"] == "512\n5\n0027\nread-only\n"


def test_a_drop_in_for_a_task(node: Here) -> None:
    run(node, "dropped", "env")
    folder = "/run/systemd/system/ngcp-task-dropped-.service.d"
    node.run("mkdir", "-p", folder)
    node.write(
        f"{folder}/x.conf", "[Service]\nEnvironment=FROM_A_DROP_IN=yes\n"
    )
    assert "FROM_A_DROP_IN=yes\n" in result(node, "dropped")["data"]
    assert "FROM_A_DROP_IN" not in result(node, "who")["data"]


def test_the_sandbox_of_the_agent_does_not_bind_it(node: Here) -> None:
    run(node, "outside", "cat", ["/proc/self/status", "/proc/self/cgroup"])
    text = result(node, "outside")["data"]
    filters = "\nSeccomp_filters:.*\n"
    assert re.findall(filters, text) == re.findall(
        filters, node.read("/proc/1/status")
    )
    assert UNIT not in text
    assert f"/{SLICE}/" in text


def test_variables_are_not_readable_by_others(node: Here) -> None:
    asking = started(node, "long", data={"password": SECRET})
    [unit] = until(lambda: units(node))
    pid = until(lambda: node.property("MainPID", unit).lstrip("0"))
    assert SECRET in node.read(f"/proc/{pid}/environ")
    agent = node.property("MainPID")
    script = (
        f"systemctl show {unit}; systemctl status {unit}; "
        f"systemctl cat {unit}; busctl introspect org.freedesktop.systemd1 "
        f"$(busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 "
        f"org.freedesktop.systemd1.Manager GetUnit s {unit} | cut -d'\"' -f2);"
        f"cat /proc/{pid}/environ /proc/{agent}/environ /proc/{agent}/fd/*;"
        "cat /run/systemd/transient/*"
    )
    for _ in range(2):
        told = node.run_as("nobody", "sh", "-c", script, check=False)
        assert unit in told.stdout
        assert SECRET not in told.stdout + told.stderr
        assert "Permission denied" in told.stderr
    busctl(node, "Cancel", asking.uuid)
    asking.answers()


def test_a_run_cannot_write_the_records_of_the_agent(node: Here) -> None:
    """Not even as root, when it says that it is the agent."""
    forge = (
        "from systemd import journal\n"
        "open('/proc/self/comm', 'w').write('ngcp-task-agent')\n"
        "journal.send('forged', SYSLOG_IDENTIFIER='ngcp-task-agent', "
        "NGCP_TASK='forged-by-unit', "
        "OBJECT_SYSTEMD_UNIT='ngcp-task-agent.service')\n"
    )
    run(node, "forge", "python3", ["-c", forge])
    assert result(node, "forge")["status"] == "done"
    forged = until(lambda: node.records("NGCP_TASK=forged-by-unit"))
    assert {record["MESSAGE"] for record in forged} == {"forged"}
    assert not node.records("NGCP_TASK=forged-by-unit", *TRUSTED)


def test_standard_error_goes_to_the_journal(node: Here) -> None:
    run(
        node,
        "tell",
        "sh",
        ["-c", "echo one >&2; echo two >&2"],
        log_stderr=True,
    )
    asking = started(node, "tell")
    asking.answers()
    match = f"NGCP_TASK_UUID={asking.uuid}"
    records = until(
        lambda: len(found := node.records(match, *TRUSTED)) > 3 and found
    )
    lines = [record.get("NGCP_TASK_STDERR") for record in records[1:-1]]
    assert lines == ["one", "two"]


@pytest.mark.parametrize("task", ["long", "stubborn"])
def test_a_cancelled_run(node: Here, task: str) -> None:
    asking = started(node, task)
    until(lambda: processes(node))
    [job] = jobs(node)
    until(lambda: str(jobs(node)[0]["pid"]) in processes(node))
    busctl(node, "Cancel", job["uuid"])
    [answer] = asking.answers()
    assert answer["reason"] == "cancelled by root"
    assert not processes(node)


# Lifetimes


def test_a_stop_answers_and_leaves_no_unit(node: Here) -> None:
    with configured(node, "stop_timeout: 2\n"):
        askings = [started(node, task) for task in ("long", "stubborn")]
        until(lambda: len(processes(node)) > 4)
        cursor = node.cursor()
        node.systemctl("stop", UNIT)
        for asking in askings:
            [answer] = asking.answers()
            assert answer["status"] == "error"
            assert "stopping" in answer["reason"]
        assert not processes(node)
        assert not units(node)
        assert node.property("Result") == "success"
        text = node.journal("-p", "warning", "-q", after=cursor)
        assert "slice" not in text
    node.systemctl("start", UNIT)
    node.wait_for_redis()


def test_a_run_that_ends_during_a_stop_is_done(node: Here) -> None:
    run(node, "ending", "sh", ["-c", "sleep 2; echo the end"])
    asking = started(node, "ending")
    until(lambda: processes(node))
    node.systemctl("restart", UNIT)
    [answer] = asking.answers()
    assert (answer["status"], answer["data"]) == ("done", "the end\n")
    node.wait_for_redis()


@contextlib.contextmanager
def configured(node: Here, text: str) -> Iterator[None]:
    path = f"{CONFIG}/agent.yml"
    node.write(path, text)
    node.systemctl("reload", UNIT)
    yield
    node.remove(path)


def test_nothing_outlives_a_killed_agent(node: Here) -> None:
    """It is gone before the next one starts."""
    left = "/run/left-by-the-agent"
    folder = f"/run/systemd/system/{UNIT}.d"
    node.run("mkdir", "-p", folder)
    node.write(
        f"{folder}/test.conf",
        "[Service]\nExecStartPre=/bin/sh -c 'cat /sys/fs/cgroup/system.slice/"
        f"{SLICE}/*/cgroup.procs >{left} 2>/dev/null || :'\n",
    )
    node.systemctl("daemon-reload")
    askings = [started(node, task) for task in ("long", "stubborn")]
    until(lambda: len(processes(node)) > 4)
    before = node.property("MainPID")
    node.run("kill", "-KILL", before)
    until(lambda: node.property("MainPID") not in ("0", before))
    until(node.is_active)
    assert node.read(left) == ""
    assert not processes(node)
    for asking in askings:
        ending = json.dumps({"ref": asking.uuid, "status": "error"})
        node.run("redis-cli", "publish", f"tests-{asking.uuid}", ending)
        asking.answers()
    node.remove(folder, left)
    node.systemctl("daemon-reload")
    node.wait_for_redis()
    assert result(node, "hello")["data"] == "hello\n"


def test_the_bus_restarts_during_runs(node: Here) -> None:
    run(node, "pause", "sh", ["-c", "sleep 3; echo woken"])
    asking = started(node, "pause")
    long = started(node, "long")
    until(lambda: len(processes(node)) > 1)
    node.systemctl("restart", "dbus.service")
    [answer] = asking.answers()
    assert answer["status"] == "done", answer
    assert answer["data"] == "woken\n"
    until(lambda: not error(node, "ListJobs"))
    busctl(node, "Cancel", long.uuid)
    assert long.answers()[0]["reason"] == "cancelled by root"
    assert result(node, "hello")["data"] == "hello\n"


def test_an_agent_by_hand_has_a_slice_of_its_own(node: Here) -> None:
    """Its next start ends what it left, and nothing of the service's."""
    folder = "/srv/second"
    channel = "ngcp-task-agent-second"
    node.shell(
        f"mkdir -p {folder}/tasks; cp -a {CONFIG}/backends {folder}\n"
        f"sed s/ngcp-task-agent-redis/{channel}/ {CONFIG}/tasks/long.yml "
        f">{folder}/tasks/long.yml"
    )
    mine = started(node, "long")
    until(lambda: len(units(node)) == 1)
    message = {
        "uuid": str(uuid.uuid4()),
        "task": "long",
        "src": "tests",
        "dst": "*",
        "options": {"feedback_channel": "nobody"},
    }
    publish = ("redis-cli", "publish", channel)
    try:
        for runs in (1, 0):
            second = node.start("ngcp-task-agent", "--config-dir", folder)
            until(lambda: "1" == node.out(*publish, "{}"))
            if runs:
                node.run(*publish, json.dumps(message))
            until(lambda n=runs: len(units(node)) == 1 + n)  # type: ignore[misc]
            kill_second(node, "KILL")
            second.communicate()
            assert len(units(node)) == 1 + runs
    finally:
        node.remove(folder)
    busctl(node, "Cancel", mine.uuid)
    assert mine.answers()[0]["reason"] == "cancelled by root"


# Limits that need controllers


def _has(node: Here, controller: str) -> bool:
    found = node.read("/sys/fs/cgroup/cgroup.controllers")
    return controller in found.split()


def test_a_run_that_takes_too_much_memory(node: Here) -> None:
    if not _has(node, "memory"):
        pytest.skip("not tested: this machine's cgroups limit no memory")
    eat = "food = []\nwhile True:\n    food.append(bytearray(1 << 20))\n"
    run(
        node,
        "eat",
        "python3",
        ["-c", eat],
        properties={"MemoryMax": "64M", "MemorySwapMax": 0},
    )
    answer = result(node, "eat")
    assert answer["status"] == "error"
    assert "memory" in answer["reason"]


def test_a_run_that_starts_too_many_processes(node: Here) -> None:
    if not _has(node, "pids"):
        pytest.skip("not tested: this machine's cgroups limit no processes")
    script = "for n in 1 2 3 4 5 6 7 8 9; do sleep 9 & done"
    run(node, "fork", "sh", ["-c", script], properties={"TasksMax": 5})
    answer = result(node, "fork")
    assert answer["status"] == "error"
    assert "fork" in answer["reason"]


# Units that exist


@pytest.mark.parametrize(
    ("name", "verb", "status", "text"),
    [
        ("t-good", "start", "done", "active (running)"),
        ("t-good.service", "restart", "done", "active (running)"),
        ("t-good", "reload", "done", "active (running)"),
        ("t-good", "reload-or-restart", "done", "active (running)"),
        ("t-plain", "reload-or-restart", "done", "active (running)"),
        ("t-good", "try-restart", "done", "active (running)"),
        ("t-good", "stop", "done", "inactive (dead)"),
        ("t-good", "try-restart", "done", "inactive (dead)"),
        ("t-plain", "reload", "error", "ExecReload"),
        ("t-fails", "start", "error", "it broke"),
        ("t-dies", "start", "error", "exit-code"),
        ("t-condition", "start", "error", "ondition"),
        ("t-masked", "start", "error", "masked"),
        ("t-absent", "start", "error", "t-absent.service"),
    ],
)
def test_verbs(
    node: Here, name: str, verb: str, status: str, text: str
) -> None:
    node.write_task("act", "systemd", unit=name, verb=verb)
    node.systemctl("reload", UNIT)
    answer = result(node, "act")
    assert answer["status"] == status, answer
    assert text in f"{answer['data']} {answer.get('reason')}", answer


def test_the_lines_of_a_unit_that_ends_at_once(node: Here) -> None:
    node.write_task("act", "systemd", unit="t-fails", verb="start")
    node.systemctl("reload", UNIT)
    # Of a process that has ended, journald often does not know the run.
    for _ in range(30):
        assert "sh: it broke\n" in result(node, "act")["data"]


def test_a_unit_that_takes_too_long(node: Here) -> None:
    node.write_task("act", "systemd", unit="t-slow", verb="start", timeout=1)
    node.systemctl("reload", UNIT)
    answer = result(node, "act")
    assert answer["status"] == "error"
    assert "1 s" in answer["reason"]
    node.systemctl("stop", "t-slow")
