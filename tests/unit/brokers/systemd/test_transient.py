"""Programs in units of their own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, List

import pytest

from ngcp_task_agent.brokers.base import Result, Work
from ngcp_task_agent.brokers.systemd import SystemdBroker, pid1, units
from ngcp_task_agent.brokers.systemd.agent_slice import agent_slice
from ngcp_task_agent.bus import bus as bus_module
from ngcp_task_agent.bus.bus import system_bus
from ngcp_task_agent.errors import BusAway, BusError
from ngcp_task_agent.process.users import PATH, own_user
from tests.fake_systemd import FakeSystemd
from tests.unit.fakes import (
    FakeAgentView,
    Records,
    needs_root,
    request,
    until,
)

pytestmark = pytest.mark.usefixtures("users_looked_up_each_time")
FOLDER = Path("/etc/ngcp-task-agent")
UUID = "cb88ac76-f348-4614-866f-43877b893e7e"

# Two processes that have left their session, and ignore SIGTERM.
STUBBORN = """
trap '' TERM
(setsid sh -c 'trap "" TERM; sleep 100 & while :; do sleep 1; done' &)
while :; do sleep 1; done
"""


@contextlib.asynccontextmanager
async def bus() -> AsyncIterator[None]:
    """Within, there is a bus; at the end, nothing asks it for anything."""
    try:
        yield
    finally:
        with contextlib.suppress(BusAway):
            await agent_slice(FOLDER).clear()
        await system_bus().stop()


def prepare(data: Any = None, task: str = "ping", **options: Any) -> Work:
    """Return the work for a request, as the agent does."""
    broker = SystemdBroker(options)
    broker.start(FakeAgentView(FOLDER))
    return broker.prepare(
        request(data, uuid=UUID, src="cl\u00efent", dst="*", task=task)
    )


async def run(data: Any = None, **options: Any) -> Result:
    """Run a request, with a connection to the bus of its own."""
    async with bus():
        return await go(data, **options)


async def go(data: Any = None, **options: Any) -> Result:
    return as_text(await prepare(data, **options).run())


def as_text(result: Result) -> Result:
    data = result.data
    text = data.decode() if isinstance(data, bytes) else data
    return dataclasses.replace(result, data=text)


def _ends_after(file: Path) -> str:
    """Return a script that goes on when there is a file."""
    wait = f"while [ ! -e {file} ]; do sleep 0.02; done"
    return f"echo a; {wait}; echo b; exit 6"


async def sh(script: str, data: Any = None, **options: Any) -> Result:
    return await run(data, run="sh", args=["-c", script, "sh"], **options)


async def test_done(systemd: FakeSystemd) -> None:
    result = await run(run="echo", args="a 'b  c' $HOME $$ %n \u20ac")
    assert result == Result(data="a b  c $HOME $$ %n \u20ac\n", exit_status=0)


ENDS: List[Any] = [
    pytest.param(
        "echo out; echo why >&2; exit 3",
        Result("out\n", "the command ended with exit status 3", "why", 3),
        id="status",
    ),
    pytest.param(
        "kill -SEGV $$",
        Result("", "the command was killed by SIGSEGV"),
        id="signal",
    ),
    pytest.param(
        "kill -KILL $$",
        Result("", "the command was killed by SIGKILL"),
        id="not-by-us",
    ),
    pytest.param(
        "echo mine; exit 203",
        Result("mine\n", "the command ended with exit status 203", "", 203),
        id="a-status-of-systemd",
    ),
    pytest.param(
        "setsid sleep 100 & echo ok",
        Result("ok\n", exit_status=0),
        id="leaves-a-process",
    ),
    pytest.param(
        "sleep 0.05; exec >&- 2>&-; sleep 0.05; exit 4",
        Result("", "the command ended with exit status 4", "", 4),
        id="closes-its-output",
    ),
]


@pytest.mark.parametrize(("script", "expected"), ENDS)
async def test_ends(
    systemd: FakeSystemd, script: str, expected: Result
) -> None:
    assert await sh(script) == expected
    assert not systemd.processes()


async def test_live_output(systemd: FakeSystemd, tmp_path: Path) -> None:
    assert SystemdBroker({"run": "true"}).has_live_output
    assert not SystemdBroker({"unit": "x", "verb": "start"}).has_live_output
    got: List[Any] = []
    go = tmp_path / "go"
    async with bus():
        work = prepare(run="sh", args=["-c", _ends_after(go)])
        work.on_output(lambda stream, data: got.append((stream, data)))
        running = asyncio.ensure_future(work.run())
        await until(lambda: got)
        assert got == [("stdout", b"a\n")]
        go.touch()
        assert (await running).data == b"a\nb\n"
    assert {("stdout", b""), ("stderr", b"")} <= {*got}
    written = [data for stream, data in got if stream == "stdout"]
    assert b"".join(written) == b"a\nb\n"


async def test_what_it_leaves_does_not_change_how_it_ended(
    systemd: FakeSystemd,
) -> None:
    """Then systemd says that the unit ran into a timeout, of its end."""
    script = "(setsid sh -c 'trap \"\" TERM; sleep 100; sleep 100' &); exit 5"
    properties = {"TimeoutStopSec": 0.1}
    options = {"run": "sh", "args": ["-c", script], "properties": properties}
    async with bus():
        for timeout in (100, 0):
            result = await go(timeout=timeout, **options)
            assert result.error == "the command ended with exit status 5"
    assert not systemd.processes()


async def test_memory(systemd: FakeSystemd) -> None:
    result = await run(run="false", task="OOM")
    assert result.error == "the command was killed: memory ran out"


async def test_timeout(systemd: FakeSystemd) -> None:
    properties = {"TimeoutStopSec": 0.1}
    result = await sh(
        f"echo begun; {STUBBORN}", timeout=0.3, properties=properties
    )
    assert result == Result(
        "begun\n", "the command ran past its timeout of 0.3 s"
    )
    assert not systemd.processes()


@pytest.mark.parametrize("timeout", [0, 100])
async def test_the_smaller_timeout_holds(
    systemd: FakeSystemd, timeout: int
) -> None:
    properties = {"RuntimeMaxSec": "200ms"}
    result = await run(
        run="sleep", args="100", timeout=timeout, properties=properties
    )
    assert result.error == "the command ran past its timeout of 0.2 s"


@pytest.mark.parametrize("stream", ["", ">&2"])
async def test_max_output(systemd: FakeSystemd, stream: str) -> None:
    result = await sh(f"yes {stream}", max_output=1000)
    assert result.error == "the command wrote more than 1000 bytes"
    assert len(result.data) == (0 if stream else 1000)


async def test_max_output_of_a_short_command(systemd: FakeSystemd) -> None:
    result = await run(run="echo", args="abc", max_output=3)
    assert result.error == "the command wrote more than 3 bytes"
    assert result.data == "abc"


async def test_stop(systemd: FakeSystemd) -> None:
    async with bus():
        work = prepare(
            run="sh",
            args=["-c", f"echo begun; {STUBBORN}"],
            properties={"TimeoutStopSec": 0.1},
        )
        running = asyncio.ensure_future(work.run())
        await until(lambda: len(systemd.processes()) >= 3)
        assert await until(lambda: work.pid) in systemd.processes()
        work.stop()
        result = as_text(await running)
    assert result == Result(
        "begun\n", "the agent is stopping and has ended the command"
    )
    assert not systemd.processes()


@pytest.mark.parametrize("after", [0, 1, 5, 20])
async def test_stop_while_it_starts(systemd: FakeSystemd, after: int) -> None:
    async with bus():
        work = prepare(run="sleep", args="100")
        running = asyncio.ensure_future(work.run())
        for _ in range(after):
            await asyncio.sleep(0)
        work.stop()
        result = await running
    assert "the agent is stopping" in result.error
    assert not systemd.processes()


async def test_what_is_stopped_early_is_not_started(
    systemd: FakeSystemd,
) -> None:
    async with bus():
        work = prepare(run="sh", args=["-c", "echo begun"])
        running = asyncio.ensure_future(work.run())
        await asyncio.sleep(0)
        work.stop()  # it still waits for the bus
        assert (await running).error
        # Answered after whatever has been asked before.
        await pid1.properties("any.service")
    assert not systemd.asked("StartTransientUnit")


@pytest.mark.parametrize("how", ["at once", "running"])
async def test_cancel(systemd: FakeSystemd, how: str) -> None:
    async with bus():
        work = prepare(run="sh", args=["-c", "echo x; sleep 100"])
        running = asyncio.ensure_future(work.run())
        if how == "running":
            await until(systemd.processes)
        else:
            await until(lambda: systemd.asked("StartTransientUnit"))
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        await until(lambda: systemd.asked("StopUnit")[1:])
        await until(lambda: not systemd.processes())
        # Its answer comes before this one; without it, it is asked again.
        await pid1.properties("any.service")


async def test_many_at_once(systemd: FakeSystemd) -> None:
    async with bus():
        works = [
            prepare(run="sh", args=["-c", f"echo {n}; exit {n}"])
            for n in range(50)
        ]
        results = await asyncio.gather(*(work.run() for work in works))
    assert [as_text(result).data for result in results] == [
        f"{n}\n" for n in range(50)
    ]
    assert [result.exit_status for result in results] == [*range(50)]
    names = {body[0] for body in systemd.asked("StartTransientUnit")}
    assert len(names) == 50


async def test_environment(systemd: FakeSystemd) -> None:
    result = await run({"k": "\u20ac"}, run="env")
    found = dict(line.split("=", 1) for line in result.data.splitlines())
    assert found.pop("INVOCATION_ID")
    own = own_user()
    assert found == {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": own.home,
        "USER": own.name,
        "LOGNAME": own.name,
        "SHELL": own.shell,
        "NGCP_TASK_NAME": "ping",
        "NGCP_TASK_UUID": UUID,
        "NGCP_TASK_SRC": "cl\u00efent",
        "NGCP_TASK_DST": "*",
        "NGCP_TASK_DATA": '{"k": "\\u20ac"}',
    }


async def test_others_cannot_read_the_variables(systemd: FakeSystemd) -> None:
    await run({"password": "secret"}, run="true", stdin="data")
    told = str(systemd.calls())
    assert "secret" not in told
    assert "cl\u00efent" not in told
    ((file, may_be_missing),) = systemd.started()[0]["EnvironmentFiles"]
    assert file.startswith(f"/proc/{os.getpid()}/fd/")
    assert not may_be_missing


VALUES = [
    "a\nb",
    "a\r\tb",
    "\"\\$`'",
    "# no comment ; no",
    "ends with \\",
    "\\\n",
    "  spaces  ",
    "".join(map(chr, range(1, 32))),
    "\x7f\x80\x9f",
    "\U0001f600\ufeff\u20ac",
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
async def test_variables_and_words_arrive_as_they_are(
    systemd: FakeSystemd, value: str
) -> None:
    async with bus():
        broker = SystemdBroker(
            {
                "run": "sh",
                "args": ["-c", 'printf "%s|%s" "$NGCP_TASK_SRC" "$1"', "sh"],
                "extra_args": True,
            }
        )
        broker.start(FakeAgentView(FOLDER))
        asked = request({"extra_args": [value]}, src=value)
        result = await broker.prepare(asked).run()
    assert as_text(result).data == f"{value}|{value}"


@pytest.mark.parametrize("letter", ["\ufffe", "\ufdd0", "\U0001ffff"])
async def test_what_systemd_takes_for_no_text(
    systemd: FakeSystemd, letter: str
) -> None:
    async with bus():
        broker = SystemdBroker({"run": "echo", "extra_args": True})
        broker.start(FakeAgentView(FOLDER))
        by_src = await broker.prepare(request(src=f"a{letter}")).run()
        words = {"extra_args": f"a{letter}"}
        by_word = await broker.prepare(request(words)).run()
    what = f"contains U+{ord(letter):04X}, which systemd does not accept"
    begin = "the command cannot be started:"
    assert by_src.error == f"{begin} the variable NGCP_TASK_SRC {what}"
    assert by_word.error == (f"{begin} an argument of '/usr/bin/echo' {what}")


async def test_stdin(systemd: FakeSystemd) -> None:
    async with bus():
        data = "x" * 1_000_000
        result = await go(data, run="wc", args="-c", stdin="data")
        assert result.data == "1000002\n"
        script = "echo more >>/dev/stdin; cat"
        args = ["-c", script]
        result = await go({"a": "\u20ac"}, run="sh", args=args, stdin="data")
        # Nobody can change it.
        assert result.data == '{"a": "\\u20ac"}'
        assert (await go(run="cat")).data == ""


async def test_log_stderr(
    systemd: FakeSystemd, journal_records: Records
) -> None:
    await sh("echo one >&2; echo two >&2", log_stderr=True)
    texts = [record.getMessage() for record in journal_records]
    assert [text.rpartition(": ")[2] for text in texts] == ["one", "two"]


@needs_root
async def test_as_user(systemd: FakeSystemd) -> None:
    result = await sh("id -un; echo x >/dev/stdout", as_user="nobody")
    assert result == Result("nobody\nx\n", exit_status=0)
    assert systemd.started()[0]["User"] == "nobody"


async def test_a_user_that_does_not_exist(systemd: FakeSystemd) -> None:
    result = await run(run="true", as_user="nosuchuser")
    assert result.error == (
        "the command cannot be started: there is no user 'nosuchuser'"
    )


async def test_a_dynamic_user(systemd: FakeSystemd) -> None:
    result = await run(run="env", properties={"DynamicUser": True})
    assert "HOME=" not in result.data
    assert "\nUSER=" not in result.data
    (started,) = systemd.started()
    assert started["DynamicUser"] is True
    assert "User" not in started


NOT_STARTED: List[Any] = [
    pytest.param(
        {"run": "/nowhere/x"}, "there is no program '/nowhere/x'", id="none"
    ),
    pytest.param({"run": "/etc/passwd"}, "is not executable", id="no-x"),
    pytest.param({"run": "nowhere"}, "there is no program", id="name"),
    pytest.param({"run": "/usr"}, "'/usr' is not a file", id="folder"),
    pytest.param(
        {"run": "true", "properties": {"WorkingDirectory": "/nowhere"}},
        "systemd could not set up",
        id="working-directory",
    ),
    pytest.param({"run": "true", "task": "FAIL"}, "f\u00e4hre", id="refused"),
]


@pytest.mark.parametrize(("options", "reason"), NOT_STARTED)
async def test_it_cannot_be_started(
    systemd: FakeSystemd, options: Dict[str, Any], reason: str
) -> None:
    result = await run(**options)
    assert result.error.startswith("the command cannot be started: ")
    assert reason in result.error
    assert result.exit_status is None


async def test_without_an_interpreter(
    systemd: FakeSystemd, program: Callable[..., str]
) -> None:
    path = program("#!/nowhere/sh\n")
    result = await run(run=path)
    assert result.error == (
        f"the command cannot be started: '{path}', or the interpreter it "
        f"names, cannot be executed by '{own_user().name}'"
    )


async def test_the_unit(systemd: FakeSystemd) -> None:
    await run(run="/bin/true", task="a-b\u20ac", timeout=5)
    ((name, mode, _, others),) = systemd.asked("StartTransientUnit")
    assert name.startswith("ngcp-task-a\\x2db\\xe2\\x82\\xac-")
    assert (mode, others) == ("fail", [])
    (started,) = systemd.started()
    assert started["Description"] == f"a-b\u20ac, request {UUID}"
    assert started["CollectMode"] == "inactive-or-failed"
    assert started["RuntimeMaxUSec"] == 5_000_000
    assert started["TimeoutStopUSec"] == 2_000_000
    assert started["Slice"].startswith("system-ngcptask_etc\\x2f")
    ((path, argv, flags),) = started["ExecStartEx"]
    assert (path, argv) == ("/bin/true", ["/bin/true"])
    assert flags == ["no-env-expand"]


async def test_without_a_timeout(systemd: FakeSystemd) -> None:
    await run(run="true", timeout=0)
    assert "RuntimeMaxUSec" not in systemd.started()[0]


async def test_properties_arrive(systemd: FakeSystemd) -> None:
    await run(
        run="true",
        properties={
            "MemoryMax": "64M",
            "UMask": "0077",
            "Nice": -5,
            "TimeoutStopSec": 7,
            "ReadOnlyPaths": "/usr /\u00e4",
            "SystemCallFilter": "~@mount reboot",
            "PrivateTmp": True,
        },
    )
    (started,) = systemd.started()
    assert started["MemoryMax"] == 64 << 20
    assert started["UMask"] == 0o077
    assert started["Nice"] == -5
    assert started["TimeoutStopUSec"] == 7_000_000
    assert started["ReadOnlyPaths"] == ["/usr", "/\u00e4"]
    assert started["SystemCallFilter"] == [False, ["@mount", "reboot"]]
    assert started["PrivateTmp"] is True


AGENT = """
import asyncio
from tests.unit.brokers.systemd.test_transient import prepare

async def main():
    await prepare(run="sleep", args="100").run()

asyncio.run(main())
"""


async def test_what_a_killed_agent_has_left_is_stopped_first(
    systemd: FakeSystemd,
) -> None:
    killed = subprocess.Popen([sys.executable, "-c", AGENT])
    await until(systemd.processes)
    killed.kill()
    killed.wait()
    assert systemd.processes()
    result = await run(run="echo", args="x")
    assert result == Result("x\n", exit_status=0)
    assert not systemd.processes()


async def test_a_slice_for_the_service(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGCP_TASK_AGENT_SLICE", "system-ngcptask.slice")
    await run(run="true")
    assert systemd.started()[0]["Slice"] == "system-ngcptask.slice"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "RETRY", 0.05)


@pytest.mark.usefixtures("quick")
async def test_the_bus_is_restarted_meanwhile(
    systemd: FakeSystemd, tmp_path: Path
) -> None:
    async with bus():
        work = prepare(run="sh", args=["-c", _ends_after(tmp_path / "go")])
        running = asyncio.ensure_future(work.run())
        await until(systemd.processes)
        systemd.bus.stop()
        await asyncio.sleep(0.1)
        systemd.bus.start()
        # Once systemd is back, too, on our new connection.
        while True:
            with contextlib.suppress(BusAway, BusError):
                await pid1.properties("any.service")
                break
            await asyncio.sleep(0.02)
        (tmp_path / "go").touch()
        result = as_text(await running)
    assert result.data == "a\nb\n"
    assert result.error == "the command ended with exit status 6"


@pytest.mark.usefixtures("quick")
async def test_it_ends_while_the_bus_is_away(
    systemd: FakeSystemd, tmp_path: Path
) -> None:
    async with bus():
        work = prepare(run="sh", args=["-c", _ends_after(tmp_path / "go")])
        running = asyncio.ensure_future(work.run())
        await until(systemd.processes)
        systemd.bus.stop()
        (tmp_path / "go").touch()
        await until(lambda: systemd.asked("ended"))
        systemd.bus.start()
        result = as_text(await running)
    assert result == Result(
        "a\nb\n",
        "the system bus was away when the command was started or ended; "
        "the journal may have its status",
    )


@pytest.mark.usefixtures("quick")
async def test_it_is_stopped_once_the_bus_is_back(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "RETRY", 0.05)
    async with bus():
        work = prepare(run="sleep", args="100")
        running = asyncio.ensure_future(work.run())
        await until(systemd.processes)
        systemd.bus.stop()
        work.stop()
        await asyncio.sleep(0.1)
        systemd.bus.start()
        result = await running
    assert "the agent is stopping" in result.error
    assert not systemd.processes()


async def test_without_a_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ngcp_task_agent.brokers.systemd import pid1

    monkeypatch.setattr(pid1, "UP_WITHIN", 0.2)
    address = f"unix:path={tmp_path}/none"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    result = await run(run="true")
    assert result.error == (
        "the command cannot be started: the system bus cannot be reached: "
        "No such file or directory"
    )


async def test_signals_of_others_change_nothing(systemd: FakeSystemd) -> None:
    """Any user can send signals that look like those of systemd."""
    from dbus_fast.message import Message
    from dbus_fast.signature import Variant

    from ngcp_task_agent.brokers.systemd.names import object_path
    from ngcp_task_agent.bus.connection import Connection

    async with bus():
        script = "sleep 0.5; exit 7"
        running = asyncio.ensure_future(
            prepare(run="sh", args=["-c", script]).run()
        )
        await until(systemd.processes)
        ((name, *_),) = systemd.asked("StartTransientUnit")
        (victim,) = {
            c["sender"]
            for c in systemd.calls()
            if c["member"] == "StartTransientUnit"
        }
        stranger = await Connection.open()
        forged = {
            "ActiveState": Variant("s", "inactive"),
            "Job": Variant("(uo)", [0, "/"]),
            "Result": Variant("s", "success"),
            "ExecMainCode": Variant("i", 1),
            "ExecMainStatus": Variant("i", 0),
        }
        for destination in (None, victim):
            message = Message.new_signal(
                object_path(name),
                "org.freedesktop.DBus.Properties",
                "PropertiesChanged",
                "sa{sv}as",
                ["org.freedesktop.systemd1.Unit", forged, []],
            )
            message.destination = destination
            await stranger.send(message)
        await stranger.close()
        result = await running
    assert result.exit_status == 7
