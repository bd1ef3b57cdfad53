"""Attacks by users of the machine, and by commands that tasks run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from tests.attacks.invoking import measured_program
from tests.attacks.load import endings, flood, memory
from tests.integration.conftest import ConfigFolder
from tests.integration.test_daemon import run
from tests.parts import (
    ROOT,
    WITHIN,
    Client,
    Daemon,
    RedisServer,
    free_port,
    is_running,
    statuses,
    wait_for,
)

Attacked = Callable[..., Daemon]
Config = Callable[[ConfigFolder], Any]

NOBODY = 65534

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be another user"
)


def check(config: ConfigFolder) -> subprocess.CompletedProcess[str]:
    return run("--check", "--config-dir", str(config.path))


def served(client: Client, task: str) -> bool:
    """Whether the agent knows the task."""
    found = statuses(client.ask(task))
    assert found in (["accepted", "done"], ["rejected"])
    return found != ["rejected"]


# Of files


def give(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def mode(bits: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(bits)


def their_link(path: Path) -> None:
    """Put a link of another user in the place of the file."""
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))
    os.lchown(path, NOBODY, NOBODY)


def through_their_folder(path: Path) -> None:
    """Put a link there that leads through another user's folder."""
    folder = path.parents[1] / f"theirs-{path.name}"
    folder.mkdir()
    path.rename(folder / path.name)
    path.symlink_to(folder / path.name)
    give(folder)


WAYS: List[Any] = [
    pytest.param(give, id="file-of-another"),
    pytest.param(mode(0o666), id="writable-by-all"),
    pytest.param(mode(0o664), id="writable-by-a-group"),
    pytest.param(their_link, id="link-of-another"),
    pytest.param(through_their_folder, id="through-a-folder-of-another"),
    pytest.param(lambda path: give(path.parent), id="folder-of-another"),
    pytest.param(
        lambda path: path.parent.chmod(0o777), id="folder-writable-by-all"
    ),
    pytest.param(
        lambda path: path.parent.chmod(0o775), id="folder-writable-by-a-group"
    ),
    pytest.param(lambda path: path.parents[1].chmod(0o777), id="folder-above"),
]


@needs_root
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["backends/redis.yml", "tasks/victim.yml"])
def test_a_file_that_others_can_change_decides_nothing(
    name: str, way: Callable[[Path], None], config: ConfigFolder
) -> None:
    config.task("victim", "true")
    way(config.path / name)
    done = check(config)
    assert done.returncode == 78
    assert "only root may decide what root runs" in done.stdout


@needs_root
def test_what_others_change_while_it_runs_changes_nothing(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    config.shell("victim", "echo good")
    daemon = attacked()
    config.shell("victim", f"touch {folder}/trap")
    config.shell("another", f"touch {folder}/trap")
    for name in ("victim", "another"):
        give(config.path / f"tasks/{name}.yml")
    daemon.reload()
    assert client.ask("victim")[-1]["data"] == "good\n"
    assert not served(client, "another")
    # With the folder it is all of its files.
    config.shell("late", f"touch {folder}/trap")
    give(config.path / "tasks")
    daemon.reload()
    assert client.ask("victim")[-1]["data"] == "good\n"
    assert not served(client, "late")
    assert not (folder / "trap").exists()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


ODD: List[Any] = [
    pytest.param(os.mkfifo, id="pipe"),
    pytest.param(listening, id="socket"),
    pytest.param(os.mkdir, id="folder"),
    pytest.param(lambda path: path.symlink_to("/dev/zero"), id="zero"),
    pytest.param(lambda path: path.symlink_to("/dev/full"), id="full"),
    pytest.param(lambda path: path.symlink_to("/dev/stdin"), id="stdin"),
    pytest.param(lambda path: path.symlink_to("/proc/kmsg"), id="kmsg"),
    pytest.param(lambda path: path.symlink_to(path), id="loop"),
    pytest.param(lambda path: path.symlink_to("/nowhere"), id="nothing"),
    pytest.param(lambda path: path.write_bytes(b"x: y\n" * 600_000), id="3M"),
    pytest.param(lambda path: path.write_bytes(bytes(1000)), id="zeros"),
    pytest.param(
        lambda path: path.write_text("name: x", encoding="utf-16"), id="utf-16"
    ),
    pytest.param(
        lambda path: path.write_text(
            "a0: &a0 [x]\n"
            + "".join(
                f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n"
                for n in range(30)
            )
        ),
        id="aliases",
    ),
    pytest.param(lambda path: path.write_text("[" * 600), id="deep"),
    pytest.param(lambda path: path.write_text("- " * 1500), id="lists"),
    pytest.param(
        lambda path: path.write_text("x: &x {<<: *x}\n"), id="itself"
    ),
    pytest.param(
        lambda path: path.write_text("x: 9" + "9" * 100_000), id="number"
    ),
    pytest.param(
        lambda path: path.write_text(
            f"!!python/object/apply:os.system ['touch {path}.trap']"
        ),
        id="python",
    ),
]


@pytest.mark.parametrize("make", ODD)
def test_no_file_stops_or_delays_the_agent(
    make: Callable[[Path], None],
    config: ConfigFolder,
    attacked: Attacked,
    folder: Path,
) -> None:
    names = ("tasks/odd.yml", "backends/odd.yml", "agent.yml")
    for name in names:
        (config.path / name).unlink(missing_ok=True)
        make(config.path / name)
    done = measured_program(
        folder,
        *(sys.executable, str(ROOT / "sbin/ngcp-task-agent")),
        *("--check", "--config-dir", str(config.path)),
    )
    assert done.status == 78, done.err
    for name in names:
        assert str(config.path / name) in done.out
    assert done.megabytes < 200
    assert done.seconds < WITHIN
    daemon = attacked()  # which serves the other files
    assert memory(daemon) < 200
    assert not list(config.path.rglob("*.trap"))


SECRET = "Xk29secret"
FAULTY = [
    f"password: !{SECRET}",
    f"password: !!{SECRET}",
    f"password: *{SECRET}",
    f"password: &{SECRET}",
    f"password: !<{SECRET}",
    f"password: %{SECRET}",
    f"password: @{SECRET}",
    f"password: `{SECRET}",
    f"password: '{SECRET}",
    f'password: "{SECRET}',
    f'password: "\\{SECRET}"',
    f"password: [{SECRET}]",
    f"password: {{{SECRET}: 1}}",
    f"password: {SECRET}: {SECRET}",
    f"password:{SECRET}",
    f"pasword: {SECRET}",
    f"password: |{SECRET}",
    f"password: >{SECRET}",
    f"password: ? {SECRET}",
    f"password: - {SECRET}",
    f"password: {SECRET} # x\n{SECRET}",
    f"password: x\npassword: {SECRET}\n",
    f"password_file: /x\npassword: {SECRET}",
    f"password: {SECRET}\n\tx",
    f"password: {SECRET}\0",
    f"password: [1, {SECRET}",
    "password: !!timestamp '" + SECRET + "'",
    "password: !!binary " + SECRET + "!",
    "password: !!int " + SECRET,
    "tls: " + SECRET,
    "username: [" + SECRET + "]",
]


def test_no_fault_repeats_what_may_be_a_secret(config: ConfigFolder) -> None:
    for number, text in enumerate(FAULTY):
        config.write(f"backends/b{number}.yml", f"type: redis\n{text}\n")
    done = check(config)
    assert done.returncode == 78
    lines = [line for line in done.stdout.splitlines() if SECRET in line]
    assert lines == []


def test_a_copy_of_a_task_takes_nothing_from_the_first(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    trap = folder / "trap"
    first = config.shell("victim", "echo good")
    daemon = attacked()
    # It is the first in the folder, and named as an editor would.
    copy = config.path / "tasks/victim-copy.yml"
    copy.write_text(first.read_text().replace("echo good", f"touch {trap}"))
    daemon.reload()
    assert client.ask("victim")[-1]["data"] == "good\n"
    done = check(config)
    assert done.returncode == 78
    assert str(first) in done.stdout
    assert str(copy) in done.stdout
    assert daemon.stop() == 0
    daemon.log.unlink()
    attacked()
    assert not served(client, "victim")
    assert not trap.exists()


# Of programs


@pytest.fixture
def program(folder: Path) -> Path:
    """A program in a folder of its own, all of root."""
    folder.chmod(0o755)
    path = folder / "opt/bin/program"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\necho active\n")
    path.chmod(0o755)
    return path


# What a group may do to a folder is a warning there.
PROGRAM_WAYS = [way for way in WAYS if way.id != "folder-writable-by-a-group"]


@needs_root
@pytest.mark.parametrize("way", PROGRAM_WAYS)
def test_root_runs_no_program_that_others_can_change(
    way: Callable[[Path], None],
    program: Path,
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
) -> None:
    way(program)
    config.task("root", str(program))
    config.task("also", str(program), broker_as_user="root")
    done = check(config)
    assert done.returncode == 78
    assert "only root" in done.stdout
    attacked()
    assert not served(client, "root")
    assert not served(client, "also")


@needs_root
@pytest.mark.parametrize("way", PROGRAM_WAYS)
def test_no_program_that_others_can_change_decides_what_is_active(
    way: Callable[[Path], None],
    program: Path,
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
) -> None:
    way(program)
    config.agent(node={"name": "sp1", "state_command": [str(program)]})
    done = check(config)
    assert done.returncode == 78
    assert "only root" in done.stdout
    attacked()
    assert statuses(client.ask("ping", dst="*")) == ["accepted", "done"]
    client.send("ping", dst="*|state=active")
    assert client.silent()


@needs_root
def test_a_program_that_a_group_can_replace_is_a_warning(
    program: Path, config: ConfigFolder
) -> None:
    config.task("root", str(program))
    program.parent.chmod(0o775)
    done = check(config)
    assert done.returncode == 0
    assert str(program.parent) in done.stdout
    assert "chmod" in done.stdout  # what mends it


@needs_root
def test_root_runs_a_program_that_only_root_can_change(
    program: Path, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.task("root", str(program))
    config.agent(node={"name": "sp1", "state_command": [str(program)]})
    done = check(config)
    assert (done.returncode, done.stderr) == (0, "")
    attacked()
    assert served(client, "root")
    wait_for(lambda: served(client, "root"))
    assert statuses(client.ask("root", dst="*|state=active"))[-1] == "done"


@needs_root
def test_a_user_may_run_their_own_program_as_themselves(
    program: Path, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    os.chown(program, 1, 1)
    config.task("own", str(program), broker_as_user="daemon")
    done = check(config)
    assert done.returncode == 0
    assert str(program) not in done.stdout
    attacked()
    assert served(client, "own")


@needs_root
def test_the_program_of_a_third_user_is_a_warning(
    program: Path, config: ConfigFolder
) -> None:
    give(program)
    config.task("theirs", str(program), broker_as_user="daemon")
    done = check(config)
    assert done.returncode == 0
    assert str(program) in done.stdout
    assert "chown" in done.stdout  # what mends it


@needs_root
@pytest.mark.parametrize("bits", [0o644, 0o602, 0o620])
def test_a_password_that_others_can_read_or_change_is_a_warning(
    bits: int, config: ConfigFolder, folder: Path
) -> None:
    folder.chmod(0o755)
    secret = folder / "password"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    config.backend(password_file=str(secret))
    assert str(secret) not in check(config).stdout
    secret.chmod(bits)
    done = check(config)
    assert done.returncode == 0
    assert str(secret) in done.stdout
    assert "chmod" in done.stdout
    assert SECRET not in done.stdout


# Of sockets


# Binds the address that the client assumed once, and runs a program.
SQUAT = """\
import fcntl, socket, struct, subprocess, sys, threading
loopback = socket.socket()
up = struct.pack("16sH22x", b"lo", 1)
fcntl.ioctl(loopback, 0x8914, up)
squatter = socket.create_server(("127.0.0.1", 6379))
def take():
    while True:
        print("taken", squatter.accept()[0].recv(99), flush=True)
threading.Thread(target=take, daemon=True).start()
sys.exit(subprocess.run(sys.argv[1:], timeout=60).returncode)
"""
# Whatever may be where only root can read it is imported before.
CLIENT_AS_NOBODY = """\
import os, sys, asyncio.base_events, encodings.idna, redis.asyncio
from ngcp_task_agent.config import plugins; plugins.installed()
from ngcp_task_agent.client.cli import live, main, output, report, writer
import importlib.metadata; importlib.metadata.version('redis')
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main.main())
"""


@needs_root
@pytest.mark.parametrize(
    ("hidden", "arguments", "status"),
    [
        ("", (), 2),
        ("", ("--channel", "c"), 2),
        ("", ("--backend", "redis"), 2),
        ("backends", (), 2),
        ("backends", ("--channel", "c"), 2),
        ("backends/redis.yml", (), 2),
        ("tasks", (), 2),
        ("tasks/t.yml", (), 2),
        ("", ("--url", "redis://127.0.0.1:1", "--channel", "c"), 69),
    ],
)
def test_a_squatter_on_the_port_gets_no_request(
    hidden: str, arguments: List[str], status: int, folder: Path
) -> None:
    """Of a user who may not read the configuration."""
    if subprocess.run(["unshare", "--net", "true"]).returncode:
        pytest.skip("this machine has no network namespaces")
    config = ConfigFolder(folder / "config", free_port())
    config.task("t", "true")
    folder.chmod(0o755)
    place = config.path / hidden
    place.chmod(0o600 if place.is_file() else 0o700)
    done = subprocess.run(
        [
            *("unshare", "--net", sys.executable, "-c", SQUAT),
            *(sys.executable, "-c", CLIENT_AS_NOBODY, "--task", "t"),
            *("--config-dir", str(config.path), "--dst", "sp1"),
            *("--data", '"s3cret"', "--answer-timeout", "0.5", *arguments),
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=2 * WITHIN,
        cwd="/",
    )
    assert "taken" not in done.stdout
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if status == 2:
        assert "Permission denied" in done.stderr
        assert len(done.stderr.splitlines()) == 1


# Of commands


@pytest.fixture
def ask(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> Callable[..., Dict[str, Any]]:
    """Run a shell script as a task, and return the ending.

    Afterwards the agent has no child process, and serves.
    """

    def ask(script: str, **keys: Any) -> Dict[str, Any]:
        env = keys.pop("env", None)
        data = keys.pop("data", None)
        config.shell("attack", script, **keys)
        daemon = attacked(env=env)
        responses = client.ask("attack", data=data)
        assert statuses(responses)[:-1] == ["accepted"]
        pid = daemon.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        wait_for(lambda: children.read_text() == "")
        assert memory(daemon) < 200
        return responses[-1]

    return ask


Ask = Callable[..., Dict[str, Any]]


@pytest.mark.parametrize(
    "script",
    [
        "kill -STOP $$",
        "exec >&- 2>&-; sleep 600",
        "exec <&-; trap '' TERM HUP INT; sleep 600; sleep 600",
        "trap '' TERM; (trap '' TERM; sleep 600 & sleep 600) & wait; wait",
        "(kill -STOP $$) & sleep 600",
        "while :; do sleep 600 & kill -STOP $!; wait; done",
        "setsid --wait sleep 7",
        "mkfifo $HOME/none/x 2>&-; read x < /dev/null; sleep 600 | sleep 600",
    ],
)
def test_no_command_outlives_its_timeout(script: str, ask: Ask) -> None:
    ending = ask(script, broker_timeout=0.5)
    assert ending["reason"] == ("the command ran past its timeout of 0.5 s"), (
        ending
    )


@pytest.mark.parametrize(
    "script",
    [
        "yes & yes >&2",
        "yes | tr -d '\\n' >&2",
        "head -c 50000000 /dev/zero",
        "trap '' PIPE TERM; yes; sleep 600",
        "setsid yes & sleep 600",
        "cat /dev/zero >&2 & cat /dev/zero & cat /dev/zero",
    ],
)
def test_no_output_fills_the_memory(script: str, ask: Ask) -> None:
    ending = ask(script, broker_timeout=20, broker_max_output="1M")
    assert ending["status"] == "error"
    assert "wrote more than 1048576 bytes" in ending["reason"]
    assert len(ending["reason"]) <= 1000
    assert len(ending["data"]) <= 1 << 20


@pytest.mark.parametrize(
    "script",
    [
        # Each leaves processes that keep the pipes, in their own sessions.
        "setsid sh -c 'echo $$ >{0}/pid; exec sleep 600' &",
        "setsid sh -c 'setsid sh -c \"echo \\$\\$ >{0}/pid; sleep 600\" &' &",
        "setsid sh -c 'trap \"\" TERM HUP; echo $$ >{0}/pid; sleep 600' &",
        "setsid sh -c 'echo $$ >{0}/pid; sleep 1; exec yes' &",
    ],
)
def test_what_forks_away_delays_no_answer(
    script: str, ask: Ask, folder: Path
) -> None:
    wait = f"until [ -s {folder}/pid ]; do sleep 0.05; done; echo out"
    ending = ask(f"{script.format(folder)}\n{wait}")
    assert (ending["status"], ending["data"]) == ("done", "out\n")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)


def test_a_command_that_kills_another_answers_for_itself_alone(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    pid = folder / "pid"
    config.shell("victim", f"echo $$ >{pid}; exec sleep 600")
    config.shell("bystander", "sleep 2; echo fine")
    config.shell("killer", f"kill -9 $(cat {pid}); echo did")
    attacked()
    sent = [client.send(task)["uuid"] for task in ("victim", "bystander")]
    wait_for(lambda: pid.exists() and pid.read_text())
    sent.append(client.send("killer")["uuid"])
    found = {e["ref"]: e for e in endings(client, sent)}
    victim, bystander, killer = (found[ref] for ref in sent)
    assert victim["reason"] == "the command was killed by SIGKILL"
    assert bystander["data"] == "fine\n"
    assert killer["data"] == "did\n"


def test_many_commands_that_fork_leave_nothing(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    script = f"for n in 1 2 3 4 5; do sleep 600 & echo $! >>{folder}/$$; done"
    config.shell("forks", script, max_queued=100)
    attacked()
    sent = flood(client, (client.request("forks") for _ in range(40)))
    assert set(statuses(endings(client, sent))) == {"done"}
    pids = [
        int(pid)
        for file in folder.glob("[0-9]*")
        for pid in file.read_text().split()
    ]
    assert len(pids) == 200
    wait_for(lambda: not any(map(is_running, pids)))


# What a command of another user tries; the agent's process is its parent.
DENIED = [
    "cat /proc/$PPID/environ",
    "cat /proc/$PPID/maps",
    "cat /proc/$PPID/mem",
    "cat /proc/$PPID/stack",
    "ls /proc/$PPID/fd/",
    "readlink /proc/$PPID/cwd",
    "readlink /proc/$PPID/exe",
    "cat /proc/$PPID/fd/2",
    "kill -9 $PPID",
    "kill -STOP $PPID",
    "kill -HUP $PPID",
    "prlimit --pid $PPID --nofile=1",
    "prlimit --pid $PPID --cpu=1",
    "renice -n 19 $PPID",
    "taskset -p 1 $PPID",
    "chrt -i -p 0 $PPID",
    "ionice -c 3 -p $PPID",
    "echo 1000 >/proc/$PPID/oom_score_adj",
    "echo x >/proc/$PPID/comm",
    "cat $CONFIG/agent.yml",
    "echo x >>$CONFIG/agent.yml",
    "touch $CONFIG/tasks/trap.yml",
    "cat $CONFIG/../config.log",
    "nsenter -t $PPID -m true",
    "cat </dev/tty",
    "cat /proc/1/environ",
]


@needs_root
def test_a_command_of_another_user_can_do_nothing_to_the_agent(
    ask: Ask, config: ConfigFolder
) -> None:
    (config.path / "agent.yml").chmod(0o600)
    lines = [f"CONFIG={config.path}"]
    for number, attempt in enumerate(DENIED):
        lines.append(f"({attempt}) >/dev/null 2>&1 && echo {number}")
    ending = ask("\n".join([*lines, "true"]), broker_as_user="daemon")
    assert ending["status"] == "done", ending
    succeeded = [DENIED[int(number)] for number in ending["data"].split()]
    assert succeeded == []


@needs_root
@pytest.mark.parametrize("user", ["root", "daemon"])
def test_a_command_inherits_nothing_of_the_agent(user: str, ask: Ask) -> None:
    script = (
        "ls -l /proc/self/fd | grep -c -e socket: -e anon_inode: -e /memfd;"
        "ls /proc/self/fd | wc -l;"
        "env | grep -c -e NOTIFY -e WATCHDOG -e JOURNAL -e LISTEN -e s3cret "
        "-e PYTHON -e RUNTIME;"
        "cut -d' ' -f 5-8 /proc/self/stat; cat /proc/self/oom_score_adj;"
        "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; ulimit -n"
    )
    env = {
        "NOTIFY_SOCKET": "/nowhere",
        "WATCHDOG_USEC": "9999999999",
        "LISTEN_FDS": "1",
        "PYTHONWARNINGS": "default",
        "REDISCLI_AUTH": "s3cret",
    }
    ending = ask(script, broker_as_user=user, env=env, data={"x": "y"})
    lines = ending["data"].splitlines()
    # Nothing but the three streams, and what ls itself opens.
    assert lines[:3] == ["0", "4", "0"], ending
    # No terminal.
    group, session, terminal, terminal_group = lines[3].split()
    assert (group, terminal, terminal_group) == (session, "0", "-1")


def test_no_command_line_shows_a_secret(
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    """All users can see all command lines, and all names of processes."""
    admin = server.connect()
    rights = ("on", ">s3cret-password", "allchannels", "+@all", "~*")
    admin.execute_command("ACL", "SETUSER", "u", *rights)
    admin.connection_pool.disconnect()
    config.backend(username="u", password="s3cret-password")
    config.shell(
        "look",
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/comm 2>&- | tr '\\0' '\\n' "
        "| grep -c -e s3cret-[pd]",
        data_schema={"type": "object"},
        broker_stdin="data",
    )
    attacked()
    data = {"x": "s3cret-data", "more": "x" * 10_000}  # checked in a process
    sent = flood(client, (client.request("look", data=data) for _ in range(5)))
    found = {ending["data"] for ending in endings(client, sent)}
    # On a busy machine some checks take too long.
    assert found - {None} == {"0\n"}


def test_no_last_words_of_a_command_are_too_many(ask: Ask) -> None:
    script = (
        "head -c 3000000 /dev/zero | tr '\\0' '\\001' >&2;"
        "printf '\\377\\376\\000\\033[2J' >&2; exit 1"
    )
    ending = ask(script)
    assert ending["status"] == "error"
    assert len(ending["reason"]) <= 1000
