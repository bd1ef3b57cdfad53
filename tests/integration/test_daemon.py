"""The daemon as systemd and an administrator start it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ngcp_task_agent import __version__
from tests.integration.conftest import ConfigFolder
from tests.parts import (
    CHANNEL,
    ROOT,
    Client,
    Daemon,
    RedisServer,
    statuses,
    wait_for,
)

Start = Callable[..., Daemon]


def run(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script until it ends."""
    return subprocess.run(
        [sys.executable, str(ROOT / "sbin/ngcp-task-agent"), *options],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (
        0,
        f"ngcp-task-agent {__version__}\n",
    )


@pytest.mark.parametrize(
    "options",
    [("--nope",), ("x",), ("--log-level", "loud"), ("--check", "--reload")],
)
def test_wrong_command_line(options: Any) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert "usage:" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--version >/dev/full", 74),
        ("--help >/dev/full", 74),
        ("--help >/dev/full 2>&1", 74),
        ("--check >/dev/full", 74),
        ("--check >&-", 74),
        ("--check <&- >&- 2>&-", 74),
        ("--check >&9", 74),
        ("--log-level foo 2>/dev/full", 2),
        ("--log-level foo 2>&-", 2),
        ("--log-level foo 2>&9", 2),
        ("--reload 2>/dev/full", 1),
        ("--check", 0),
    ],
)
def test_output_cannot_be_written(
    words: str, status: int, unbuffered: str, config: ConfigFolder
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # of what is written to 9
    script = f'exec 9>&{writer}; exec "$@" --config-dir "$0" {words}'
    try:
        done = subprocess.run(
            [
                *("bash", "-c", script, str(config.path)),
                *(sys.executable, str(ROOT / "sbin/ngcp-task-agent")),
            ],
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": unbuffered,
            },
            timeout=60,
        )
    finally:
        os.close(writer)
    assert done.returncode == status
    told = done.stderr.decode()
    if status == 74 and "2>" not in words and "&9" not in words:
        assert told.startswith("ngcp-task-agent: standard output: ")
        assert len(told.splitlines()) == 1
    else:
        assert told == ""
    assert (done.stdout == b"") is (status != 0)


def test_check(config: ConfigFolder) -> None:
    config.task("true", "true")
    done = run("--check", "--config-dir", str(config.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"{config.path}: no fault; 1 backend, 1 task\n")


def test_check_of_the_shipped_configuration() -> None:
    """Outside of NGCP nodes, only the task's program is missing."""
    done = run("--check", "--config-dir", str(ROOT / "etc/ngcp-task-agent"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "ngcp-clear-call-counters" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[1:] == [
        f"{ROOT}/etc/ngcp-task-agent: no fault; 1 backend, 1 task"
    ]


def test_the_shipped_configuration_is_quiet(
    config: ConfigFolder, start: Start
) -> None:
    (config.path / "agent.yml").unlink()
    shipped = ROOT / "etc/ngcp-task-agent"
    for path in shipped.rglob("*.yml"):
        text = path.read_text().replace("port: 6379", f"port: {config.port}")
        config.write(str(path.relative_to(shipped)), text)
    daemon = start()
    daemon.wait_for_log("not managed over the bus")
    kinds = [line.split()[2] for line in daemon.text().splitlines()]
    assert kinds == ["INFO"] * 3  # subscribed, started, no bus
    assert "redis: subscribed, 1 task" in daemon.text()


def test_check_of_a_new_file(config: ConfigFolder, tmp_path: Path) -> None:
    new = config.task("new", "true").rename(tmp_path / "new.yml")
    done = run("--check", str(new), "--config-dir", str(config.path))
    assert (done.returncode, done.stdout) == (0, f"{new}: no fault\n")
    new.write_text("name: x\npassword: !Xk29secret")
    done = run("--config-dir", str(config.path), f"--check={new}")
    assert (done.returncode, done.stderr) == (78, "")
    assert "put it in quotes" in done.stdout
    assert "Xk29" not in done.stdout


def test_a_program_that_others_could_change(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user may run what it wants")
    script = config.path / "script"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    config.task("script", str(script))
    daemon = start()
    assert client.ask("script")[-1]["data"] == "hello\n"
    script.chmod(0o757)
    config.task("copy", str(script))
    daemon.reload()
    # What runs stays as it was.
    assert client.ask("script")[-1]["data"] == "hello\n"
    assert statuses(client.ask("copy")) == ["rejected"]
    assert f"{script} is writable by everyone: only root" in daemon.text()


def test_check_reports_all_faults_at_once(config: ConfigFolder) -> None:
    config.write("agent.yml", "max_running: 0\nmax_runing: 1\n")
    config.write("tasks/a.yml", "name: a\n")
    config.write("tasks/b.yml", "name: 'b\n")
    done = run("--check", "--config-dir", str(config.path))
    assert done.returncode == 78
    assert done.stderr == ""
    folder = config.path
    assert done.stdout.splitlines() == [
        f"{folder}/agent.yml:1: max_running: must be a whole number from 1 "
        "to 10000",
        f"{folder}/agent.yml:2: max_runing: unknown key; did you "
        "mean 'max_running'?",
        f"{folder}/tasks/a.yml:1: the key 'backend' is missing",
        f"{folder}/tasks/a.yml:1: the key 'broker' is missing",
        f"{folder}/tasks/a.yml:1: backend_options: the key 'control_channel' "
        "is missing",
        f"{folder}/tasks/b.yml:1: not YAML: found unexpected end of stream; "
        "the quote ' is not closed",
    ]


def test_nothing_to_run(config: ConfigFolder) -> None:
    (config.path / "backends/redis.yml").unlink()
    config.task("true", "true")
    done = run("--config-dir", str(config.path))
    assert done.returncode == 78
    assert "no usable backend" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("--config-dir", "/nowhere")
    assert done.returncode == 78
    assert "/nowhere: there is no such folder" in done.stderr


def test_bug_at_the_start(config: ConfigFolder, folder: Path) -> None:
    """Any bug is reported the same way; here, a broken Python."""
    (folder / "sitecustomize.py").write_text("import gc; gc.disable = None")
    path = f"{folder}:{ROOT}"
    done = run("--config-dir", str(config.path), PYTHONPATH=path)
    assert done.returncode == 1
    assert " ERROR   a bug: the agent has ended\n" in done.stderr
    assert "TypeError" in done.stderr.splitlines()[-1]


def test_process_title_and_log(config: ConfigFolder, start: Start) -> None:
    daemon = start(log_level="info")
    title = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
    assert title.rstrip(b"\0") == b"ngcp-task-agent"
    # Journal records have this as _COMM.
    name = Path(f"/proc/{daemon.process.pid}/comm").read_text()
    assert name == "ngcp-task-agent\n"
    lines = daemon.text().splitlines()[:2]
    assert all(" INFO " in line for line in lines)
    assert (
        f" ngcp-task-agent {__version__} has started: redis: subscribed, "
        "0 tasks, 0 running; this is sp1; "
    ) in lines[-1]
    assert lines[-1].endswith("; state active; status online; role none")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_cleanly(number: int, start: Start) -> None:
    assert start().stop(number) == 0


def own_signals(process: subprocess.Popen[bytes]) -> bool:
    """Whether our code runs yet, and no signal kills it silently."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Ign|Cgt):\t(\w+)$", status, flags=re.M)
    handled = sum(int(mask, 16) for mask in masks)
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return all(handled >> number - 1 & 1 for number in wanted)


MOMENTS = [step / 10 for step in range(11)]  # fractions of a start's duration


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_signals_while_it_starts(number: int, config: ConfigFolder) -> None:
    begin = time.monotonic()
    whole = 0.0
    for moment in [1.0, *MOMENTS]:
        daemon = Daemon(config.path)
        try:
            wait_for(lambda d=daemon: own_signals(d.process))
            if whole:
                time.sleep(whole * moment)
            else:
                daemon.wait_for_log("has started")
                whole = time.monotonic() - begin
            daemon.process.send_signal(number)
            if number == signal.SIGHUP:
                daemon.wait_for_log("has started")
            else:
                assert daemon.process.wait(60) == 0, moment
        finally:
            status = daemon.stop()
        assert status == 0, moment
        assert "Traceback" not in daemon.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_until_it_has_ended(number: int, start: Start) -> None:
    daemon = start()
    daemon.process.terminate()
    while daemon.process.poll() is None:
        daemon.process.send_signal(number)
        time.sleep(0.001)
    assert daemon.process.returncode == 0


def test_watchdog_shows_where_it_hangs(start: Start) -> None:
    daemon = start()
    # No core file.
    resource.prlimit(daemon.process.pid, resource.RLIMIT_CORE, (0, 0))
    assert daemon.stop(signal.SIGABRT) == -signal.SIGABRT
    text = daemon.text()
    assert "Fatal Python error: Aborted" in text
    assert "ngcp_task_agent/daemon/cli.py" in text


def test_ignored_children_are_not_inherited(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.shell("child", "true")
    start(preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert client.ask("child")[-1]["status"] == "done"


def test_umask_is_not_inherited(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.shell("umask", "umask")
    start(umask=0o077)
    assert client.ask("umask")[-1]["data"] == "0022\n"


def test_relative_folder(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    """The agent changes its working directory."""
    config.shell("one", "pwd")
    folder = config.path.parent
    relative = os.path.relpath(config.path, folder)
    daemon = start("--config-dir", relative, cwd=folder)
    assert client.ask("one")[-1]["data"] == "/\n"
    config.shell("two", "echo 2")
    daemon.reload()
    assert client.ask("two")[-1]["data"] == "2\n"


# More to log than a pipe holds.
FILL = "printf '%01000d\\n' $(seq 100) >&2"


def test_unread_log(
    config: ConfigFolder, client: Client, server: RedisServer
) -> None:
    """The agent keeps working; once the log is read, it is complete."""
    config.task("true", "true")
    config.shell("fill", FILL, broker_log_stderr=True)
    with unread(config) as process:
        wait_for(lambda: server.subscribers(CHANNEL))
        assert statuses(client.ask("fill")) == ["accepted", "done"]
        assert statuses(client.ask("true")) == ["accepted", "done"]
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if b"done true" in line:
                break
        assert sum(b"stderr of fill" in line for line in lines) == 100
        process.terminate()
        assert b"stopped; since" in process.stderr.readlines()[-1]
        assert process.wait(60) == 0


def test_log_that_is_never_read(
    config: ConfigFolder, client: Client, server: RedisServer
) -> None:
    """Stopping does not wait long for it, either."""
    config.task("true", "true")
    config.shell("fill", FILL, broker_log_stderr=True)
    with unread(config) as process:
        wait_for(lambda: server.subscribers(CHANNEL))
        assert statuses(client.ask("fill")) == ["accepted", "done"]
        assert statuses(client.ask("true")) == ["accepted", "done"]
        process.terminate()
        assert process.wait(60) == 0


@contextlib.contextmanager
def unread(config: ConfigFolder) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon whose log is a pipe; it ends after a minute at most."""
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "sbin/ngcp-task-agent")),
            *("--config-dir", str(config.path), "--log-level", "debug"),
        ],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    try:
        yield process
    finally:
        too_late.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "<&- >&-"])
def test_started_with_closed_standard_streams(
    closed: str, config: ConfigFolder, client: Client, server: RedisServer
) -> None:
    config.shell("both", "cat; echo out; echo err >&2; exit 1")
    script = f'exec "$@" {closed}'
    process = subprocess.Popen(
        [
            *("sh", "-c", script, "sh"),
            *(sys.executable, str(ROOT / "sbin/ngcp-task-agent")),
            *("--config-dir", str(config.path)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_for(lambda: server.subscribers(CHANNEL))
        ending = client.ask("both")[-1]
        assert ending["data"] == "out\n"
        assert ending["reason"].endswith("exit status 1: err")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


class Systemd:
    """Systemd's end of $NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)
        self.heard: List[str] = []

    def wait_for(self, text: str, count: int = 1) -> None:
        wait_for(lambda: self._heard(text) >= count)

    def _heard(self, text: str) -> int:
        try:
            while True:
                self.heard.append(self._socket.recv(65536).decode())
        except socket.timeout:
            pass
        return sum(text in message for message in self.heard)

    def status_when_ready(self) -> str:
        """Return the last status before the last READY."""
        ready = len(self.heard) - self.heard[::-1].index("READY=1")
        statuses = [m for m in self.heard[:ready] if m.startswith("STATUS=")]
        return statuses[-1][len("STATUS=") :]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(folder: Path) -> Iterator[Systemd]:
    systemd = Systemd(folder / "notify")
    yield systemd
    systemd.close()


def test_notices_to_systemd(
    config: ConfigFolder, start: Start, systemd: Systemd, client: Client
) -> None:
    config.task("true", "true")
    env = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}
    daemon = start(env=env)
    systemd.wait_for("READY=1")
    systemd.wait_for("WATCHDOG=1", 3)
    systemd.wait_for("STATUS=redis: subscribed, 1 task, 0 running")
    client.ask("true")
    systemd.wait_for("0 running, 1 accepted, 1 done")
    config.write("tasks/faulty.yml", "x: y\n")
    daemon.process.send_signal(signal.SIGHUP)
    systemd.wait_for("READY=1", 2)
    reloading = next(m for m in systemd.heard if "RELOADING=1" in m)
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert reloading.rpartition("=")[2].isdigit()
    order = [
        message
        for message in systemd.heard
        if message.startswith(("READY", "RELOADING"))
    ]
    assert order == ["READY=1", reloading, "READY=1"]
    daemon.process.send_signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert daemon.process.wait(30) == 0


def test_status_shows_that_redis_is_away(
    config: ConfigFolder, start: Start, systemd: Systemd, server: RedisServer
) -> None:
    start(env={"NOTIFY_SOCKET": str(systemd.path)})
    server.kill()
    systemd.wait_for("STATUS=redis: away (Connection refused), 0 tasks")
    server.start()
    systemd.wait_for("STATUS=redis: subscribed")
    # Heartbeats were not requested.
    assert not [m for m in systemd.heard if "WATCHDOG" in m]


def test_status_is_the_truth_at_once(
    config: ConfigFolder, start: Start, systemd: Systemd, server: RedisServer
) -> None:
    """It comes before READY, and says what is wrong."""
    config.shell("slow", "exec sleep 600")
    config.backend(password="x")
    server.connect().config_set("requirepass", "another")
    config.write("agent.yml", "stop_timeout: soon\n")
    daemon = start(env={"NOTIFY_SOCKET": str(systemd.path)})
    systemd.wait_for("READY=1")
    status = systemd.status_when_ready()
    assert status.startswith(
        "1 faulty file: agent.yml; state unknown; status unknown; "
        "redis: away (refuses the login: "
    )
    assert status.endswith("), 1 task, 0 running")
    config.agent(stop_timeout=0)
    config.backend(password="another")
    daemon.process.send_signal(signal.SIGHUP)
    systemd.wait_for("READY=1", 2)
    assert systemd.status_when_ready() == (
        "redis: subscribed, 1 task, 0 running"
    )


def test_status_shows_the_oldest_running_task(
    config: ConfigFolder, start: Start, systemd: Systemd, client: Client
) -> None:
    config.shell("slow", "exec sleep 600")
    config.agent(stop_timeout=0)
    start(env={"NOTIFY_SOCKET": str(systemd.path)})
    client.send("slow")
    systemd.wait_for("1 running, oldest: slow for 1 s, 1 accepted")


def test_state_command(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    state = config.path / "state"
    script = f"cat {state}; [ ! -e {state}.hang ] || sleep 1000"
    config.agent(
        node={"name": "sp1", "state_command": ["/bin/sh", "-c", script]}
    )
    config.task("true", "true")
    state.write_text("standby\n")
    daemon = start()
    client.send("true", dst="*|state=active")
    daemon.wait_for_log("ignored true")
    state.write_text("active\n")
    daemon.wait_for_log("the state of this node is active")
    ask = client.ask("true", dst="*|state=active")
    assert statuses(ask) == ["accepted", "done"]
    # A hanging command makes the state unknown, and delays no answer.
    Path(f"{state}.hang").touch()
    wait_for(
        lambda: (
            statuses(client.ask("true", dst="*|state=unknown,sp1"))
            and is_unknown(client)
        )
    )
    responses = client.ask("true")
    took = responses[-1]["timestamp"] - responses[0]["timestamp"]
    assert took < 5


def is_unknown(client: Client) -> bool:
    client.send("true", dst="*|state=unknown")
    return not client.silent(0.2)


DESTINATIONS = [
    ("local", {"sp1"}),
    ("prx01a", {"prx01a"}),
    ("prx*", {"prx01a", "prx01b"}),
    ("*|state=active", {"sp1", "prx01a"}),
    ("*|status=online", {"sp1", "prx01a", "prx01b"}),
    ("*|state=active;role=proxy", {"prx01a"}),
    ("*|state=active;role=proxy+lb", {"sp1", "prx01a"}),
    ("sp1,prx*|state=standby", {"sp1", "prx01b"}),
    ("PRX01?|site=GRAZ", {"prx01b"}),
]


def test_destinations_among_nodes(
    config: ConfigFolder, folder: Path, start: Start, client: Client
) -> None:
    """Three agents on one Redis each take only their own requests."""
    nodes = [
        {"name": "sp1", "roles": ["lb"], "state": "active"},
        {"name": "prx01a", "roles": ["proxy"], "state": "active"},
        {
            "name": "prx01b",
            "roles": ["proxy"],
            "state": "standby",
            "labels": {"site": "graz"},
        },
    ]
    for node in nodes:
        other = ConfigFolder(folder / node["name"], config.port)  # type: ignore[operator]
        other.agent(node=node)
        # The last backend is on another machine: there, "local" depends on
        # src.
        other.backend(host="127.0.0.1")
        other.task("true", "true")
        start(config=other)
    for dst, names in DESTINATIONS:
        src = "sp1" if dst == "local" else "tests"
        if dst == "local":
            # All three agents and the server are on this machine: each takes
            # what only clients of its own machine can have sent.
            names = {"sp1", "prx01a", "prx01b"}
        client.send("true", dst=dst, src=src)
        responses = [client.next() for _ in range(2 * len(names))]
        assert {r["src"] for r in responses} == names, dst
    assert client.silent()
