"""Management over the bus, with the real daemon on a bus of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Set, Tuple

import pytest

from ngcp_task_agent import __version__
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusAway, BusError
from ngcp_task_agent.management import interface
from ngcp_task_agent.management.client import RunningAgent
from tests.bus import PrivateBus
from tests.integration.conftest import ConfigFolder
from tests.parts import ROOT, Client, Daemon, statuses, wait_for
from tests.unit.fakes import needs_root

Start = Callable[..., Daemon]

NAME, PATH = interface.NAME, interface.PATH
PROPERTIES = "org.freedesktop.DBus.Properties"
PEER = "org.freedesktop.DBus.Peer"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
NOBODY = 65534
SERVICE = {"NGCP_TASK_AGENT_SLICE": "system-ngcptask.slice"}


def asked(bus: PrivateBus, member: str, *arguments: Any) -> Any:
    """Return what a method of RunningAgent returns."""

    async def ask() -> Any:
        async with RunningAgent(bus.address) as agent:
            return await getattr(agent, member)(*arguments)

    return asyncio.run(ask())


def called(bus: PrivateBus, of: str, member: str, *body: Any) -> Any:
    """Call a method of the agent's object as it is; arguments are strings."""

    async def call() -> Any:
        connection = await Connection.open(address=bus.address)
        try:
            return await connection.call(
                NAME, PATH, of, member, "s" * len(body), *body
            )
        finally:
            await connection.close()

    return asyncio.run(call())


def reload(bus: PrivateBus, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "sbin/ngcp-task-agent"), "--reload"],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
            **env,
        },
    )


# Python itself may be where another user cannot read it.
_BECOME_NOBODY = f"""
import asyncio, json, os, socket, sys, threading
import ngcp_task_agent.bus, dbus_fast.aio.message_bus
import ngcp_task_agent.daemon.cli, ngcp_task_agent.management.reload
ngcp_task_agent.daemon.cli.parser().parse_args(["--reload"])
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""

_AS_NOBODY = """
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusError

async def main(address, name, path, calls):
    connection = await Connection.open(address=address)

    async def call(of, member, *body):
        try:
            await connection.call(name, path, of, member, "s" * len(body),
                                  *body, within=50)
        except BusError as error:
            return [error.name, str(error)]
        return ["", ""]

    found = await asyncio.gather(*(call(*words) for words in calls))
    print(json.dumps(found))
    await connection.close()

asyncio.run(main(*sys.argv[1:4], json.loads(sys.argv[4])))
"""


def as_nobody(bus: PrivateBus, *calls: Tuple[str, ...]) -> List[Any]:
    """Call as another user, all at once; return the errors' names, texts."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", _BECOME_NOBODY + _AS_NOBODY),
            *(bus.address, NAME, PATH, json.dumps(calls)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


class FakePolkit:
    """Grants some actions to everybody, on a bus."""

    def __init__(self, bus: PrivateBus) -> None:
        self.granted: Set[str] = set()
        self.asked: List[Tuple[Any, ...]] = []
        self.is_silent = False
        self._address = bus.address
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve())
        )
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._connection = await Connection.open(self._take, self._address)
        await self._connection.call_bus(
            "RequestName", "su", "org.freedesktop.PolicyKit1", 0
        )
        self._ready.set()
        await self._end.wait()
        await self._connection.close()

    def _take(self, message: Any) -> bool:
        if message.member != "CheckAuthorization":
            return False
        from dbus_fast.message import Message

        (kind, subject), action, details, flags, _ = message.body
        self.asked.append(
            (kind, subject["name"].value, action, details, flags)
        )
        if not self.is_silent:
            found = [action in self.granted, False, {}]
            reply = Message.new_method_return(message, "(bba{ss})", [found])
            self._sending = asyncio.ensure_future(self._connection.send(reply))
        return True


@pytest.fixture
def polkit(bus: PrivateBus) -> Iterator[FakePolkit]:
    polkit = FakePolkit(bus)
    yield polkit
    polkit.stop()


# Each member.


def test_lists(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    config.agent(stop_timeout=0)
    config.shell("slow", "exec sleep 600", max_running=1, description="Zzz …")
    config.task("true", "true")
    daemon = managed()
    first, second = client.send("slow"), client.send("slow", src="w\u00ebb")
    before = time.time()
    wait_for(lambda: len(asked(bus, "jobs")) == 2)
    wait_for(lambda: asked(bus, "jobs")[0].pid)
    running, queued = asked(bus, "jobs")
    channel = "ngcp-task-agent-redis"
    place = ("redis", channel)
    assert running[:6] == (first["uuid"], "slow", "tests", *place, "running")
    assert queued[:6] == (second["uuid"], "slow", "w\u00ebb", *place, "queued")
    for job in (running, queued):
        assert abs(job.since / 1e6 - before) < 30
    children = Path(f"/proc/{daemon.process.pid}/task").glob("*/children")
    assert str(running.pid) in "".join(c.read_text() for c in children).split()
    assert queued.pid == 0
    assert sorted(asked(bus, "tasks")) == [
        ("slow", *place, "command", 1, 1, "Zzz …"),
        ("true", *place, "command", 0, 0, ""),
    ]


def test_properties(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    config.agent(
        node={
            "name": "sp1",
            "aliases": ["Proxy"],
            "roles": ["proxy", "lb"],
            "labels": {"site": "vienna"},
        }
    )
    config.task("true", "true")
    managed()
    assert statuses(client.ask("true")) == ["accepted", "done"]
    assert statuses(client.ask("unknown")) == ["rejected"]
    state = asked(bus, "state")
    assert state.version == __version__
    node = state.node
    assert (node["name"], node["roles"]) == ("sp1", ["lb", "proxy"])
    assert "proxy" in node["aliases"]
    assert (node["state"], node["status"]) == ("active", "online")
    assert node["labels"] == {"site": "vienna"}
    assert state.backends == (("redis", "subscribed", ""),)
    assert state.counters.totals == {
        "received": 2,
        "ignored": 0,
        "rejected": 1,
        "accepted": 1,
        "done": 1,
        "error": 0,
        "busy": 0,
        "duplicates": 0,
    }
    assert state.counters.tasks["true"]["done"] == 1
    for name, signature in interface.SIGNATURES.items():
        (value,) = called(bus, PROPERTIES, "Get", NAME, name)
        assert value.signature == signature


ERRORS = [
    pytest.param((PROPERTIES, "Get", NAME, "X"), "UnknownProperty", id="name"),
    pytest.param((PROPERTIES, "Get", "x.y", "X"), "UnknownInterface", id="of"),
    pytest.param((PROPERTIES, "Set", NAME, "X"), "InvalidArgs", id="set"),
    pytest.param((NAME, "Nothing"), "UnknownMethod", id="method"),
    pytest.param(("x.y", "Nothing"), "UnknownInterface", id="interface"),
    pytest.param((NAME, "Reload", "x"), "InvalidArgs", id="arguments"),
    pytest.param((NAME, "Cancel", "x" * 256), "InvalidArgs", id="too-long"),
    pytest.param((NAME, "Cancel"), "InvalidArgs", id="no-argument"),
]


def test_errors(bus: PrivateBus, managed: Callable[..., Daemon]) -> None:
    managed()
    for parameter in ERRORS:
        call, name = parameter.values
        with pytest.raises(BusError) as caught:
            called(bus, *call)
        assert caught.value.name == f"org.freedesktop.DBus.Error.{name}"
        assert "Traceback" not in str(caught.value)


def test_introspection(
    bus: PrivateBus, managed: Callable[..., Daemon]
) -> None:
    managed()
    assert called(bus, INTROSPECTABLE, "Introspect") == [interface.XML]
    assert called(bus, PEER, "Ping") == []
    (machine,) = called(bus, PEER, "GetMachineId")
    assert len(machine) == 32
    if not shutil.which("busctl"):
        pytest.skip("busctl is not installed")
    for words in (["introspect", NAME, PATH], ["tree", NAME]):
        done = subprocess.run(
            ["busctl", f"--address={bus.address}", "--no-pager", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert PATH in done.stdout or ".ListJobs" in done.stdout


def test_cancel(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    config.shell("slow", "echo so far; exec sleep 600", max_running=1)
    managed()
    first, second = client.send("slow"), client.send("slow")
    wait_for(lambda: [j for j in asked(bus, "jobs") if j.pid])
    assert asked(bus, "cancel", second["uuid"].upper())
    ending = client.ending()
    assert ending["ref"] == second["uuid"]
    assert ending["reason"] == f"cancelled by {own_name()}; nothing was run"
    time.sleep(0.1)  # for the output
    assert asked(bus, "cancel", first["uuid"])
    assert asked(bus, "jobs") == ()
    ending = client.ending()
    assert (ending["status"], ending["data"]) == ("error", "so far\n")
    assert ending["reason"] == f"cancelled by {own_name()}"
    assert not asked(bus, "cancel", first["uuid"])
    assert not asked(bus, "cancel", "nonsense")


def own_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def test_reload(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    daemon = managed()
    config.task("new", "true")
    for more in ({}, {"MAINPID": str(daemon.process.pid)}):
        done = reload(bus, **more)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert statuses(client.ask("new")) == ["accepted", "done"]
    config.task("newer", "true")
    faulty = config.write("tasks/faulty.yml", "x: [\n")
    (fault,) = asked(bus, "reload")
    assert fault.startswith(f"{faulty}:2: not YAML")
    done = reload(bus)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"{fault}\n"
    assert statuses(client.ask("newer")) == ["accepted", "done"]


def test_properties_changed(
    bus: PrivateBus, config: ConfigFolder, managed: Callable[..., Daemon]
) -> None:
    daemon = managed()
    seen: List[Any] = []

    def take(message: Any) -> bool:
        if message.member == "PropertiesChanged":
            seen.append(message.body)
        return False

    async def watch() -> None:
        connection = await Connection.open(take, bus.address)
        await connection.call_bus(
            "AddMatch", "s", f"type='signal',sender='{NAME}',path='{PATH}'"
        )
        config.agent(node={"name": "sp1", "state": "standby"})
        await asyncio.to_thread(daemon.reload)
        for _ in range(1000):
            if seen:
                break
            await asyncio.sleep(0.02)
        await connection.close()

    asyncio.run(watch())
    ((name, changed, invalidated),) = seen
    assert (name, list(changed), invalidated) == (NAME, ["Node"], [])
    assert changed["Node"].value["state"].value == "standby"


# Who may.

MEMBERS = [
    (NAME, "Reload"),
    (NAME, "ListTasks"),
    (NAME, "ListJobs"),
    (NAME, "Cancel", str(uuid.uuid4())),
    (PROPERTIES, "GetAll", NAME),
    *((PROPERTIES, "Get", NAME, name) for name in interface.SIGNATURES),
    (PROPERTIES, "Set", NAME, "Version"),
    (INTROSPECTABLE, "Introspect"),
    (PEER, "Ping"),
    (NAME, "Nothing"),
]
DENIED = "org.freedesktop.DBus.Error.AccessDenied"


@needs_root
def test_others_may_nothing(
    bus: PrivateBus, managed: Callable[..., Daemon]
) -> None:
    daemon = managed()
    # More than 8 at once are refused for another reason.
    found = [e for m in MEMBERS for e in as_nobody(bus, m)]
    assert [name for name, _ in found] == [DENIED] * len(MEMBERS)
    for _, text in found:
        assert text.startswith("only root may do that: polkit cannot be ask")
    assert " reloaded" not in daemon.text()


@needs_root
def test_polkit_decides(
    bus: PrivateBus, managed: Callable[..., Daemon], polkit: FakePolkit
) -> None:
    daemon = managed()
    ((name, text),) = as_nobody(bus, (NAME, "ListJobs"))
    assert name == DENIED
    assert text == (
        "only root may do that, and those to whom polkit grants "
        "com.sipwise.ngcptaskagent1.inspect"
    )
    ((kind, sender, action, details, flags),) = polkit.asked
    assert (kind, details, flags) == ("system-bus-name", {}, 0)
    assert sender.startswith(":")
    assert action == interface.INSPECT
    no_job = interface.NO_SUCH_JOB
    for right, granted in (
        (interface.RELOAD, {"Reload": ""}),
        (interface.CANCEL, {"Cancel": no_job}),
        (
            interface.INSPECT,
            {
                **dict.fromkeys(("ListTasks", "ListJobs", "GetAll"), ""),
                **dict.fromkeys(("Get", "Introspect", "Ping"), ""),
                "Set": "org.freedesktop.DBus.Error.InvalidArgs",
                "Nothing": "org.freedesktop.DBus.Error.UnknownMethod",
            },
        ),
    ):
        polkit.granted = {right}
        for call in MEMBERS:
            ((name, _),) = as_nobody(bus, call)
            assert name == granted.get(call[1], DENIED), call
    assert daemon.text().count(" reloaded") == 1
    before = len(polkit.asked)
    assert asked(bus, "jobs") == ()
    assert len(polkit.asked) == before  # root needs no polkit


@needs_root
def test_another_user_reads_who_may_reload(
    bus: PrivateBus, managed: Callable[..., Daemon], polkit: FakePolkit
) -> None:
    managed()
    main = 'sys.exit(ngcp_task_agent.daemon.cli.main(["--reload"]))'
    done = subprocess.run(
        [sys.executable, "-c", _BECOME_NOBODY + main],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr == (
        "ngcp-task-agent: only root may do that, and those to whom polkit "
        "grants com.sipwise.ngcptaskagent1.reload\n"
    )


_FLOOD = """
from dbus_fast.constants import MessageFlag
from dbus_fast.message import Message

path, name, where = sys.argv[1:]
dbus = "org.freedesktop.DBus"

def call(flags):
    message = Message(name, where, name, "Cancel", signature="s",
                      body=["x" * 100], flags=flags, serial=2)
    return bytearray(message._marshall(False))

hello = Message(dbus, "/org/freedesktop/DBus", dbus, "Hello", serial=1)
quiet = call(MessageFlag.NO_REPLY_EXPECTED) * 50

def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    uid = str(os.geteuid()).encode().hex().encode()
    s.sendall(b"\\0AUTH EXTERNAL " + uid + b"\\r\\n")
    s.recv(1000)
    s.sendall(b"BEGIN\\r\\n" + bytes(hello._marshall(False)))
    s.recv(1000)
    return s

def flood(s):
    one, serial = call(MessageFlag.NONE), 2
    while True:
        block = quiet[:]
        for _ in range(50):
            one[8:12] = serial.to_bytes(4, "little")
            block += one
            serial += 1
        s.sendall(block)
        s.recv(65536)  # of what the bus has passed on

sockets = [connect() for _ in range(8)]
print("begun", flush=True)
for s in sockets:
    threading.Thread(target=flood, args=(s,)).start()
"""


@needs_root
def test_a_flood_of_another_user(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
    polkit: FakePolkit,
) -> None:
    config.task("true", "true")
    daemon = managed()
    polkit.is_silent = True  # each check takes as long as it may
    flood = subprocess.Popen(
        [
            *(sys.executable, "-c", _BECOME_NOBODY + _FLOOD),
            *(str(bus.socket), NAME, PATH),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    try:
        assert flood.stdout
        flood.stdout.readline()
        memory = []
        for _ in range(20):
            assert asked(bus, "state").version == __version__
            assert asked(bus, "jobs") == ()
            assert statuses(client.ask("true")) == ["accepted", "done"]
            memory.append(_pss(daemon.process.pid))
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.communicate()
    assert max(memory) < memory[0] + 20_000, memory
    # Answered after all that the flood has sent.
    assert asked(bus, "state").version == __version__
    refused = as_nobody(bus, *[(NAME, "ListJobs")] * 30)
    names = [name for name, _ in refused]
    too_many = "org.freedesktop.DBus.Error.LimitsExceeded"
    assert names.count(too_many) >= 30 - 8
    assert set(names) <= {too_many, DENIED}
    assert "Traceback" not in daemon.text()


def _pss(pid: int) -> int:
    """Return the memory of a process, in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0])


# The name and the bus.


def test_a_second_agent(
    bus: PrivateBus,
    config: ConfigFolder,
    folder: Path,
    managed: Callable[..., Daemon],
    start: Start,
) -> None:
    first = managed()
    other = ConfigFolder(folder / "other", config.port)
    env = {"DBUS_SYSTEM_BUS_ADDRESS": bus.address}
    second = start(config=other, env=env)
    text = second.wait_for_log("not managed over the bus: ")
    assert (
        f"not managed over the bus: process {first.process.pid} owns {NAME}; "
        "SIGHUP reloads"
    ) in text
    second.reload()
    assert asked(bus, "pid") == first.process.pid
    # Within its unit, it is the second that reloads.
    pid = str(second.process.pid)
    done = reload(bus, MAINPID=pid)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "another agent is on the system bus: sent SIGHUP; the journal has "
        "the result\n"
    )
    second.wait_for_log(" reloaded", 2)
    assert " reloaded" not in first.text()
    # It is next, and says so.
    first.stop()
    second.wait_for_log("managed over the bus, as ")
    assert asked(bus, "pid") == second.process.pid
    # The service takes the name from it.
    third = start(
        config=ConfigFolder(folder / "third", config.port),
        env={**env, **SERVICE},
    )
    third.wait_for_log("managed over the bus, as ")
    second.wait_for_log("another agent has taken the name; SIGHUP reloads")
    assert asked(bus, "pid") == third.process.pid
    third.stop()
    second.wait_for_log("managed over the bus, as ", 2)


def test_the_bus_restarts(
    bus: PrivateBus, config: ConfigFolder, managed: Callable[..., Daemon]
) -> None:
    daemon = managed()
    for count in (1, 2):
        bus.stop()
        daemon.wait_for_log("the connection to the system bus was lost", count)
        with pytest.raises(BusAway):
            asked(bus, "jobs")
        time.sleep(1.5)  # two attempts: they are not logged
        bus.start()
        daemon.wait_for_log("managed over the bus, as ", count + 1)
        assert asked(bus, "jobs") == ()
    assert daemon.text().count("not managed over the bus") == 2


def test_without_a_bus(
    folder: Path, config: ConfigFolder, start: Start, client: Client
) -> None:
    folder.chmod(0o755)
    config.task("true", "true")
    daemon = start()
    daemon.wait_for_log("not managed over the bus: the system bus cannot")
    assert statuses(client.ask("true")) == ["accepted", "done"]
    maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "dbus_fast" not in maps
    nowhere = PrivateBus(folder)
    pid = str(daemon.process.pid)
    done = reload(nowhere, MAINPID=pid)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "the system bus cannot be reached: No such file or directory: sent "
        "SIGHUP; the journal has the result\n"
    )
    daemon.wait_for_log(" reloaded")
    assert daemon.stop() == 0
    done = reload(nowhere, MAINPID=pid)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        f"SIGHUP cannot be sent to process {pid}: No such process\n"
    )
    with subprocess.Popen(["sleep", "60"]) as sleep:
        done = reload(nowhere, MAINPID=str(sleep.pid))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith(f"process {sleep.pid} is no agent\n")
        assert sleep.poll() is None
        sleep.kill()


@pytest.mark.parametrize("text", ["0", "1", "-7", "\u0663", "9" * 20])
def test_a_pid_that_is_none(bus: PrivateBus, text: str) -> None:
    done = reload(bus, MAINPID=text, PATH="/nowhere")
    assert "systemctl cannot send SIGHUP" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bus_that_hangs(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    config.task("true", "true")
    daemon = managed()
    os.kill(bus.pid, signal.SIGSTOP)
    config.agent(node={"name": "sp1", "state": "standby"})
    daemon.reload()  # and a signal of it, which the bus does not take
    assert statuses(client.ask("true")) == ["accepted", "done"]
    assert daemon.stop() == 0


SYSTEMCTL = [
    pytest.param(0, "", 0, "", id="sent"),
    pytest.param(
        1,
        "Failed to kill unit: No main process to kill",
        1,
        "systemctl cannot send SIGHUP to ngcp-task-agent.service: Failed to "
        "kill unit: No main process to kill; an agent started by hand "
        "reloads on SIGHUP",
        id="failed",
    ),
    pytest.param(
        1,
        "No systemd runs here. It cannot operate",
        1,
        ".service: No systemd runs here; an agent",
        id="two sentences",
    ),
    pytest.param(
        None, "", 1, ".service: No such file or directory; ", id="missing"
    ),
]


@pytest.mark.parametrize(("ends", "says", "status", "error"), SYSTEMCTL)
def test_reload_by_systemctl(
    bus: PrivateBus,
    folder: Path,
    ends: Optional[int],
    says: str,
    status: int,
    error: str,
) -> None:
    """Without an agent on the bus."""
    systemctl = folder / "systemctl"
    if ends is not None:
        systemctl.write_text(
            f'#!/bin/sh\necho "$@" >{folder}/words\n'
            f"echo '{says}' >&2\nexit {ends}\n"
        )
        systemctl.chmod(0o755)
    done = reload(
        bus, PATH=f"{folder}:/bin" if says or ends == 0 else f"{folder}"
    )
    assert done.returncode == status, done.stderr
    assert error in done.stderr
    if ends is None:
        return
    assert (folder / "words").read_text() == (
        "--no-ask-password kill --kill-who=main --signal=HUP "
        "ngcp-task-agent.service\n"
    )
    if status == 0:
        assert done.stdout == (
            "no agent is on the system bus: sent SIGHUP; the journal has the "
            "result\n"
        )


@needs_root
def test_an_agent_that_may_not_own_the_name(
    folder: Path, config: ConfigFolder, start: Start
) -> None:
    """It asks again, since its policy may be installed later."""
    folder.chmod(0o755)
    deny = f'<policy context="default"><deny own="{NAME}"/></policy>\n'
    bus = PrivateBus(folder, deny)
    bus.start()
    try:
        daemon = start(env={"DBUS_SYSTEM_BUS_ADDRESS": bus.address})
        daemon.wait_for_log("not managed over the bus: the bus refuses the")
        conf = folder / "bus.conf"
        conf.write_text(conf.read_text().replace(deny, ""))
        os.kill(bus.pid, signal.SIGHUP)
        daemon.wait_for_log("managed over the bus, as ")
        assert daemon.text().count("not managed over the bus") == 1
    finally:
        bus.stop()


def test_a_stop_answers_those_who_wait(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    config.shell("slow", "trap '' TERM; while :; do sleep 1; done")
    daemon = managed()
    sent = client.send("slow")
    wait_for(lambda: [j for j in asked(bus, "jobs") if j.pid])
    found: List[Any] = []
    cancelling = threading.Thread(
        target=lambda: found.append(asked(bus, "cancel", sent["uuid"]))
    )
    cancelling.start()
    time.sleep(0.3)
    assert daemon.stop() == 0
    cancelling.join()
    assert found == [True]
    assert client.ending()["reason"] == f"cancelled by {own_name()}"
