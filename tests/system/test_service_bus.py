"""The agent on the system bus: who may do what, and who hears what."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests.system.machine import (
    CONFIG,
    UNIT,
    WITHIN,
    Here,
    as_user,
    until,
)

NAME = "com.sipwise.NgcpTaskAgent1"
PATH = "/com/sipwise/NgcpTaskAgent1"
PROPERTIES = "org.freedesktop.DBus.Properties"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"

# Accounts that every Debian has; the rule grants one action to each.
GRANTED = {"games": "inspect", "man": "reload", "mail": "cancel"}
STRANGER = "nobody"
RULES = "/etc/polkit-1/rules.d/50-ngcp-task-agent-tests.rules"
RULE = """\
polkit.addRule(function(action, subject) {
    var granted = %s;
    if (action.id == "com.sipwise.ngcptaskagent1." + granted[subject.user])
        return polkit.Result.YES;
});
"""
NO_JOB = str(uuid.uuid4())
# Name of an action, interface, member, arguments (all strings).
MEMBERS: List[Tuple[str, str, str, Tuple[str, ...]]] = [
    ("inspect", NAME, "ListTasks", ()),
    ("inspect", NAME, "ListJobs", ()),
    ("inspect", PROPERTIES, "GetAll", (NAME,)),
    ("inspect", PROPERTIES, "Get", (NAME, "Version")),
    ("inspect", PROPERTIES, "Get", (NAME, "Node")),
    ("inspect", PROPERTIES, "Get", (NAME, "Backends")),
    ("inspect", PROPERTIES, "Get", (NAME, "Counters")),
    ("reload", NAME, "Reload", ()),
    ("cancel", NAME, "Cancel", (NO_JOB,)),
]

# Prints the signals that it gets.
LISTENER = f"""
import asyncio
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

def show(message):
    if message.message_type is MessageType.SIGNAL and message.path == "{PATH}":
        print(message.member, *message.body, flush=True)

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    bus.add_message_handler(show)
    for rule in "type='signal'", "type='signal',sender='{NAME}'":
        await bus.call(Message(
            "org.freedesktop.DBus", "/org/freedesktop/DBus",
            "org.freedesktop.DBus", "AddMatch", signature="s", body=[rule]))
    print("listening", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def node(shared: Here) -> Iterator[Here]:
    """A node on which polkit grants each action to one user."""
    shared.task("hello", "echo", "hello", text="say hello")
    shared.task("long", "sleep", ["1000"])
    shared.systemctl("reload", UNIT)
    shared.write(RULES, RULE % json.dumps(GRANTED))
    for user, right in GRANTED.items():
        until(lambda u=user, r=right: _may(shared, u, r))  # type: ignore[misc]
    yield shared
    shared.remove(RULES)
    # It does not come back to the bus by itself, and a power-off asks it.
    shared.run("systemctl", "try-restart", "systemd-logind")


def _may(node: Here, user: str, right: str) -> bool:
    """Ask polkit, which needs a moment to see new rules."""
    done = node.run_as(
        user,
        "sh",
        "-c",
        f"pkcheck -p $$ -a com.sipwise.ngcptaskagent1.{right}",
        check=False,
    )
    return done.returncode == 0


def busctl(
    node: Here,
    member: str,
    *arguments: str,
    interface: str = NAME,
    user: str = "root",
) -> Any:
    """Call a method; return its reply, or None if that is empty."""
    done = node.run_as(
        user,
        *("busctl", "--json=short", "call", NAME, PATH, interface, member),
        *(["s" * len(arguments), *arguments] if arguments else []),
    )
    return json.loads(done.stdout)["data"] if done.stdout.strip() else None


def get(node: Here, name: str) -> Any:
    """Return a property."""
    done = node.out(
        "busctl", "--json=short", "get-property", NAME, PATH, NAME, name
    )
    return json.loads(done)["data"]


def error(
    node: Here,
    member: str,
    *arguments: str,
    interface: str = NAME,
    user: str = "root",
) -> str:
    """Call a method; return the error's name and text, or nothing.

    With dbus-send, because busctl has an own text for refusals.
    """
    done = node.run_as(
        user,
        *("dbus-send", "--system", "--print-reply", "--reply-timeout=60000"),
        *(f"--dest={NAME}", PATH, f"{interface}.{member}"),
        *(f"string:{argument}" for argument in arguments),
        check=False,
    )
    assert not done.returncode or done.stderr.startswith("Error ")
    return done.stderr[len("Error ") :].strip()


def jobs(node: Here) -> List[Dict[str, Any]]:
    names = ("uuid", "task", "src", "backend", "channel", "state", "since")
    [rows] = busctl(node, "ListJobs")
    return [dict(zip((*names, "pid"), row)) for row in rows]


# Members


def test_at_most_eight_members(node: Here) -> None:
    lines = node.out("busctl", "introspect", NAME, PATH, NAME).splitlines()
    members = sorted(line.split()[0].lstrip(".") for line in lines[1:])
    assert members == [
        *("Backends", "Cancel", "Counters", "ListJobs", "ListTasks"),
        *("Node", "Reload", "Version"),
    ]


def test_properties(node: Here) -> None:
    version = node.out("ngcp-task-agent", "--version").split()[-1]
    assert get(node, "Version") == version
    assert get(node, "Node")["name"]["data"] == node.out("hostname")
    assert get(node, "Backends") == [["redis", "subscribed", ""]]


def test_tasks(node: Here) -> None:
    [rows] = busctl(node, "ListTasks")
    channel = "ngcp-task-agent-redis"
    assert ["hello", "redis", channel, "command", 0, 0, "say hello"] in rows


def test_counters(node: Here) -> None:
    before = get(node, "Counters")
    assert node.ask("hello")[1]["status"] == "done"
    assert node.ask("absent")[0]["status"] == "rejected"
    after = get(node, "Counters")

    def grown(part: int, *names: str) -> Dict[str, int]:
        was, now = before[part], after[part]
        for name in names:
            was, now = was.get(name, {}), now[name]
        return {
            k: n - was.get(k, 0) for k, n in now.items() if n != was.get(k, 0)
        }

    assert grown(0) == {"received": 2, "accepted": 1, "done": 1, "rejected": 1}
    assert grown(1, "hello") == {"received": 1, "accepted": 1, "done": 1}


@pytest.mark.parametrize("user", ["root", "mail"])
def test_cancel(node: Here, user: str) -> None:
    asking = node.start_asking("long", src="web01a")
    assert asking.next()["status"] == "accepted"
    [job] = jobs(node)
    assert job["uuid"] == asking.uuid
    assert (job["task"], job["src"], job["state"]) == (
        *("long", "web01a", "running"),
    )
    assert job["pid"] in node.cgroup()
    busctl(node, "Cancel", asking.uuid, user=user)
    assert not jobs(node)
    [answer] = asking.answers()
    assert answer["status"] == "error"
    assert answer["reason"] == f"cancelled by {user}"
    assert job["pid"] not in node.cgroup()
    told = error(node, "Cancel", asking.uuid)
    assert told.startswith(f"{NAME}.Error.NoSuchJob: ")


def test_reload_reports_all_faults(node: Here) -> None:
    with bad_file(node, "one"), bad_file(node, "two"):
        told = error(node, "Reload")
        assert told.startswith(f"{NAME}.Error.Faults: ")
        assert told.count(f"{CONFIG}/tasks/one.yml:2: broker: ") == 1
        assert told.count(f"{CONFIG}/tasks/two.yml:2: broker: ") == 1
        done = node.run("ngcp-task-agent", "--reload", check=False)
        assert done.returncode not in (0, 2)
        assert f"{CONFIG}/tasks/one.yml:2: broker: " in done.stderr
    assert error(node, "Reload") == ""


@contextlib.contextmanager
def bad_file(node: Here, name: str) -> Iterator[None]:
    path = f"{CONFIG}/tasks/{name}.yml"
    node.write(path, f"name: {name}\nbroker: nothing\n")
    yield
    node.remove(path)


# Rights


@pytest.mark.parametrize(
    ("right", "interface", "member", "arguments"),
    [
        pytest.param(*row, id=f"{row[2]} {' '.join(row[3][1:])}".strip())
        for row in MEMBERS
    ],
)
def test_who_may(
    node: Here,
    right: str,
    interface: str,
    member: str,
    arguments: Tuple[str, ...],
) -> None:
    for user in ("root", STRANGER, *GRANTED):
        told = error(node, member, *arguments, interface=interface, user=user)
        if user == "root" or GRANTED.get(user) == right:
            assert DENIED not in told
        else:
            assert told.startswith(f"{DENIED}: ")
            assert "root" in told
            assert f"com.sipwise.ngcptaskagent1.{right}" in told
    if right != "cancel":
        done = node.run_as(
            "root",
            *("busctl", "call", NAME, PATH, interface, member),
            *(["s" * len(arguments), *arguments] if arguments else []),
        )
        assert not done.stderr


def test_a_stranger_introspects_no_values(node: Here) -> None:
    done = node.run_as(
        STRANGER, "busctl", "introspect", NAME, PATH, check=False
    )
    assert node.out("hostname") not in done.stdout + done.stderr


def test_a_stranger_is_told_who_may_reload(node: Here) -> None:
    done = node.run_as(STRANGER, "ngcp-task-agent", "--reload", check=False)
    assert done.returncode not in (0, 2)
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr
    node.run_as("man", "ngcp-task-agent", "--reload")


def test_only_root_owns_the_name(node: Here) -> None:
    script = (
        "import asyncio\n"
        "from dbus_fast import BusType\n"
        "from dbus_fast.aio import MessageBus\n"
        "async def main():\n"
        "    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()\n"
        f"    await bus.request_name('{NAME}x'[:-1])\n"
        "asyncio.run(main())\n"
    )
    done = node.run_as(STRANGER, "python3", "-c", script, check=False)
    assert "is not allowed to own" in done.stderr


def test_without_polkit_only_root_may(node: Here) -> None:
    node.systemctl("mask", "--runtime", "--now", "polkit")
    try:
        assert error(node, "ListTasks") == ""
        assert error(node, "ListTasks", user="games").startswith(DENIED)
    finally:
        node.systemctl("unmask", "--runtime", "polkit")
        node.systemctl("start", "polkit")
    until(lambda: error(node, "ListTasks", user="games") == "")


def test_only_root_hears_signals(node: Here) -> None:
    """And they are about states, not about each request."""
    rule = f"sender='{NAME}'"
    heard = {
        user: node.start(*as_user(user), "python3", "-uc", LISTENER)
        for user in ("root", STRANGER)
    }
    for process in heard.values():
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
    monitors = [
        node.start(*as_user(STRANGER), *words)
        for words in (
            ("busctl", "monitor", NAME),
            ("dbus-monitor", "--system", rule),
        )
    ]
    for _ in range(3):
        assert node.ask("hello")[1]["status"] == "done"
    listener = heard["root"]
    assert listener.stdout
    node.systemctl("stop", "redis-server")
    away = listener.stdout.readline()
    node.systemctl("start", "redis-server")
    back = listener.stdout.readline()
    node.run("pkill", "-f", "asyncio.sleep.100[0]")
    node.run("pkill", "-x", "dbus-monitor", check=False)
    for line in away, back:
        assert line.startswith("PropertiesChanged ")
        assert "Backends" in line
        assert "Counters" not in line
        assert ("subscribed" in line) == (line is back)
    assert NAME not in heard[STRANGER].communicate()[0]
    assert not listener.communicate()[0]
    for monitor in monitors:
        monitor.wait(WITHIN)
        assert monitor.stdout
        assert NAME not in monitor.communicate()[0]


# Without a bus


def test_the_bus_restarts(node: Here) -> None:
    process = node.property("MainPID")
    node.systemctl("restart", "dbus.service")
    until(lambda: not error(node, "ListTasks"))
    assert node.property("MainPID") == process
    node.systemctl("reload", UNIT)
    assert node.ask("hello")[1]["status"] == "done"


def test_without_a_bus(node: Here) -> None:
    """It serves requests, and reloads by a signal."""
    process = node.property("MainPID")
    node.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        cursor = node.cursor()
        path = node.task("late", "echo", "there")
        node.systemctl("reload", UNIT)
        until(lambda: node.ask("late")[-1]["status"] == "done")
        told = node.journal(after=cursor)
        assert "SIGHUP" in told
        done = node.run("ngcp-task-agent", "--reload")
        assert "journal" in done.stdout + done.stderr
        assert node.property("MainPID") == process
    finally:
        node.remove(path)
        node.systemctl("start", "dbus.socket", "dbus.service")
    until(lambda: not error(node, "ListTasks"))
    node.systemctl("reload", UNIT)
    assert node.ask("late")[0]["status"] == "rejected"


def test_a_stop_without_a_bus_is_no_slower(node: Here) -> None:
    node.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        node.systemctl("stop", UNIT)
        assert node.property("Result") == "success"
        node.systemctl("start", UNIT)
    finally:
        node.systemctl("start", "dbus.socket", "dbus.service")
    until(lambda: not error(node, "ListTasks"))


def test_a_second_agent(node: Here) -> None:
    """It says that it is not on the bus, and a signal reloads it."""
    folder = "/srv/second"
    node.run("cp", "-a", CONFIG, folder)
    try:
        channel = "ngcp-task-agent-second"
        node.run(
            "sed",
            "-i",
            f"s/ngcp-task-agent-redis/{channel}/",
            *[f"{folder}/tasks/{name}.yml" for name in ("hello", "long")],
        )
        node.shell(f"rm {folder}/tasks/clear_call_counters.yml")
        second = node.start("ngcp-task-agent", "--config-dir", folder)
        assert second.stderr
        lines: List[str] = []
        while not any(NAME in line for line in lines):
            lines.append(second.stderr.readline())
            assert lines[-1], "it has ended"
        mine = node.property("MainPID")
        owner = node.out("busctl", "status", NAME)
        assert f"PID={mine}\n" in owner
        kill_second(node, "HUP")
        while not any("reload" in line for line in lines):
            lines.append(second.stderr.readline())
            assert lines[-1], "it has ended"
        kill_second(node, "TERM")
        second.communicate()
    finally:
        node.remove(folder)


def kill_second(node: Here, signal: str) -> None:
    """Send a signal to the agent that is not the service."""
    pids = {*node.out("pgrep", "-x", "ngcp-task-agent").split()}
    [second] = pids - {node.property("MainPID")}
    node.run("kill", f"-{signal}", second)


def test_it_stops_before_the_bus(node: Here) -> None:
    """Otherwise a power-off takes long."""
    assert "dbus.service" in node.property("After").split()
