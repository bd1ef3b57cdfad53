"""What can go wrong with commands, and what their clients get to know."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from tests.integration.conftest import ConfigFolder
from tests.parts import ROOT, Client, Daemon, is_running, statuses, wait_for

Start = Callable[..., Daemon]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run commands as another user"
)


@pytest.fixture
def ask(
    config: ConfigFolder, start: Start, client: Client
) -> Callable[..., Dict[str, Any]]:
    """Add a shell task, request it, and return the ending."""

    def ask(script: str, **keys: Any) -> Dict[str, Any]:
        data = keys.pop("data", None)
        config.shell("task", script, **keys)
        daemon = start()
        responses = client.ask("task", data=data)
        assert statuses(responses)[:-1] == ["accepted"]
        assert "Traceback" not in daemon.text()
        return responses[-1]

    return ask


Ask = Callable[..., Dict[str, Any]]


def test_exit_status(ask: Ask) -> None:
    ending = ask("echo out; echo early >&2; echo last words >&2; exit 3")
    assert ending["status"] == "error"
    assert ending["reason"] == (
        "the command ended with exit status 3: last words"
    )
    assert ending["data"] == "out\n"


def test_killed_by_a_signal(ask: Ask) -> None:
    ending = ask("echo out; kill -SEGV $$")
    assert ending["reason"] == "the command was killed by SIGSEGV"
    assert ending["data"] == "out\n"


def test_timeout_ends_the_whole_group(ask: Ask, folder: Path) -> None:
    pid = folder / "pid"
    ending = ask(
        f"echo out; sleep 100 & echo $! > {pid}; wait", broker_timeout=1
    )
    assert ending["reason"] == "the command ran past its timeout of 1 s"
    assert ending["data"] == "out\n"
    wait_for(lambda: not is_running(int(pid.read_text())))


def test_stubborn_child_is_killed(ask: Ask) -> None:
    ending = ask(
        "trap '' TERM; echo out; while :; do sleep 0.1; done",
        broker_timeout=0.5,
    )
    assert "timeout" in ending["reason"]
    assert ending["data"] == "out\n"


@pytest.mark.parametrize("stream", ["1", "2"])
def test_endless_output_is_cut_off(stream: str, ask: Ask) -> None:
    ending = ask(f"yes >&{stream}", broker_max_output=5000)
    assert ending["reason"].startswith(
        "the command wrote more than 5000 bytes"
    )
    assert ending["data"] == ("y\n" * 2500 if stream == "1" else "")


def test_grandchild_that_keeps_the_pipe_does_not_delay_the_ending(
    ask: Ask, folder: Path
) -> None:
    pid = folder / "pid"
    ending = ask(f"echo out; sleep 1000 & echo $! > {pid}")
    assert (ending["status"], ending["data"]) == ("done", "out\n")
    wait_for(lambda: not is_running(int(pid.read_text())))


def test_grandchild_in_another_session_stays(ask: Ask, folder: Path) -> None:
    pid = folder / "pid"
    ending = ask(f"echo out; setsid sleep 1000 & sleep 0.2; echo $! > {pid}")
    assert (ending["status"], ending["data"]) == ("done", "out\n")
    stayed = int(pid.read_text())
    assert is_running(stayed)
    os.kill(stayed, 9)


def test_output_that_is_not_utf8(ask: Ask) -> None:
    assert ask("printf 'a\\377b'")["data"] == "a\ufffdb"


def test_no_output_is_an_empty_string(ask: Ask) -> None:
    assert ask(":")["data"] == ""


def test_environment_is_built_from_scratch(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("env", "env", broker_args=["-0"])
    start(env={"LEAKED": "1", "NOTIFY_SOCKET": "/nowhere"})
    request = client.send("env", data={"a": "é"}, src="web01a", dst="sp*")
    text = client.ending()["data"]
    found = dict(line.split("=", 1) for line in text.split("\0") if line)
    me = pwd.getpwuid(os.geteuid())
    assert found == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": me.pw_dir,
        "USER": me.pw_name,
        "LOGNAME": me.pw_name,
        "SHELL": me.pw_shell,
        "NGCP_TASK_NAME": "env",
        "NGCP_TASK_UUID": request["uuid"],
        "NGCP_TASK_SRC": "web01a",
        "NGCP_TASK_DST": "sp*",
        "NGCP_TASK_DATA": '{"a": "\\u00e9"}',
    }


def test_command_starts_clean(ask: Ask) -> None:
    script = (
        "ls /proc/self/fd; pwd; umask; "
        "exec grep -E 'Sig(Blk|Ign)' /proc/self/status"
    )
    lines = ask(script)["data"].split("\n")
    # 3 is what ls itself has opened.
    assert lines[:4] == ["0", "1", "2", "3"]
    assert lines[4:6] == ["/", "0022"]
    # glibc's posix_spawn leaves out the two signals of its own threads, 32 and
    # 33, which no program uses.
    for line in lines[6:8]:
        assert int(line.split()[1], 16) & ~(3 << 31) == 0


def test_stdin_is_the_data(ask: Ask) -> None:
    ending = ask("cat", broker_stdin="data", data={"msgnum": 1})
    assert json.loads(ending["data"]) == {"msgnum": 1}


def test_stdin_is_empty_by_default(ask: Ask) -> None:
    assert ask("cat", data={"msgnum": 1})["data"] == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"extra_args": "a  b\t'c\"\n"}, ["a", "b", "'c\""]),
        ({"extra_args": ["a b", ""]}, ["a b", ""]),
        ('{"extra_args": "x", "more": 1}', ["x"]),
        ({"extra_args": ""}, []),
        ({"other": 1}, []),
        ("no JSON", []),
        (None, []),
    ],
)
def test_extra_args(data: Any, words: List[str], ask: Ask) -> None:
    ending = ask(
        'for w in "$@"; do printf "<%s>" "$w"; done',
        broker_extra_args=True,
        data=data,
    )
    assert ending["data"] == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize(
    ("allowed", "extra"),
    [
        (False, "x"),
        (True, ["a", 1]),
        (True, {"a": "b"}),
        (True, ["a\0b"]),
        (True, ["\ud800"]),
        (["[a-z]+"], "abc a1"),
        (["[a-z]+"], ["abc\n"]),
    ],
)
def test_extra_args_that_are_not_allowed(
    allowed: Any,
    extra: Any,
    config: ConfigFolder,
    start: Start,
    client: Client,
) -> None:
    config.task("echo", "echo", broker_extra_args=allowed)
    start()
    (rejected,) = client.ask("echo", data={"extra_args": extra})
    assert rejected["status"] == "rejected"
    assert "extra_args" in rejected["reason"]


def test_programs_that_cannot_be_started(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    plain = config.path / "plain"
    plain.write_text("#!/bin/sh\n")
    no_interpreter = config.path / "no_interpreter"
    no_interpreter.write_text("#!/nowhere/sh\n")
    no_interpreter.chmod(0o755)
    no_program = config.path / "no_program"
    no_program.write_bytes(b"\0\1\2\3")
    no_program.chmod(0o755)
    runs = {
        "no-such-program-there": "there is no program",
        "/nowhere/program": "there is no program '/nowhere/program'",
        str(config.path): "is not a file",
        str(plain): "is not executable",
        str(no_interpreter): "or the interpreter it names, does not exist",
        str(no_program): "not a program that the system can execute",
    }
    for number, run in enumerate(runs):
        config.task(f"t{number}", run)
    daemon = start()
    for number, reason in enumerate(runs.values()):
        accepted, error = client.ask(f"t{number}")
        assert accepted["status"] == "accepted"
        assert error["status"] == "error"
        assert error["reason"].startswith("the command cannot be started: ")
        assert reason in error["reason"]
        assert error["data"] == ""
    assert "Traceback" not in daemon.text()


def test_program_that_is_no_longer_executable(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    script = config.path / "script"
    script.write_text("#!/bin/sh\necho out\n")
    script.chmod(0o755)
    config.task("script", str(script))
    start()
    assert client.ask("script")[-1]["data"] == "out\n"
    script.chmod(0o644)
    assert "is not executable" in client.ask("script")[-1]["reason"]


def test_arguments_too_long_for_the_system(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("echo", "echo", broker_extra_args=True)
    start()
    ending = client.ask("echo", data={"extra_args": ["x" * 131_072]})[-1]
    assert "too long" in ending["reason"]


def test_unknown_user(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("id", "id", broker_as_user="nobody-such")
    daemon = start()
    # The start says nothing: --check does, and each request.
    assert "nobody-such" not in daemon.text()
    accepted, error = client.ask("id")
    assert accepted["status"] == "accepted"
    assert error["reason"] == (
        "the command cannot be started: there is no user 'nobody-such'"
    )


@needs_root
def test_programs_that_another_user_cannot_start(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    """The reason says why."""
    script = config.path / "script"
    script.write_text("#!/nowhere/sh\n")
    script.chmod(0o755)
    config.path.parent.chmod(0o755)
    config.task("script", str(script), broker_as_user="daemon")
    start()
    error = client.ask("script")[-1]
    assert error["status"] == "error"
    assert error["reason"] == (
        f"the command cannot be started: '{script}', or the interpreter it "
        "names, does not exist"
    )


@needs_root
def test_another_user(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    script = (
        "id -un; id -gn; id -Gn; echo $HOME; echo $USER; "
        "echo to > /dev/stdout;"
        "grep CapEff /proc/self/status"
    )
    config.shell("id", script, broker_as_user="daemon")
    start()
    lines = client.ask("id")[-1]["data"].splitlines()
    home = pwd.getpwnam("daemon").pw_dir
    assert lines[:6] == ["daemon", "daemon", "daemon", home, "daemon", "to"]
    assert lines[6].split()[1] == "0" * 16


@needs_root
def test_agent_that_is_not_root_cannot_run_as_another_user(
    config: ConfigFolder, folder: Path, server: Any, client: Client
) -> None:
    config.task("id", "id", broker_as_user="daemon")
    config.task("whoami", "id", broker_args="-un")
    folder.chmod(0o755)
    # Python itself may be where only root can read it.
    become_nobody = (
        "import os, sys, asyncio.base_events, redis.asyncio, ngcp_task_agent;"
        "from ngcp_task_agent.config import plugins; plugins.installed();"
        "from ngcp_task_agent.daemon import cli;"
        "import importlib.metadata; importlib.metadata.version('redis');"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "sys.exit(cli.main())"
    )
    argv = [sys.executable, "-c", become_nobody]
    argv += ["--config-dir", str(config.path)]
    process = subprocess.Popen(
        argv,
        stderr=subprocess.PIPE,
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    try:
        wait_for(lambda: server.subscribers("ngcp-task-agent-redis"))
        error = client.ask("id")[-1]
        assert error["status"] == "error"
        assert error["reason"] == (
            "the command cannot be started: the agent runs as 'nobody': "
            "only root can run commands as 'daemon'"
        )
        assert client.ask("whoami")[-1]["data"] == "nobody\n"
    finally:
        process.terminate()
        _, log = process.communicate()
    assert b"Traceback" not in log


def test_nothing_secret_above_debug(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.shell(
        "task",
        'echo "$1"; echo "no such user" >&2; exit 1',
        broker_extra_args=True,
    )
    daemon = start(log_level="info")
    data = {"extra_args": ["s3cret-word"], "password": "s3cret-data"}
    ending = client.ask("task", data=data)[-1]
    assert ending["data"] == "s3cret-word\n"
    log = daemon.wait_for_log("error task")
    # The last line on standard error is logged.
    assert "exit status 1: no such user\n" in log
    assert "s3cret" not in daemon.text()


def test_standard_error_in_the_log(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    """No line of it looks like a record of the agent."""
    script = "printf 'one\\n2026-01-01 INFO accepted\\033[2J\\ntwo' >&2"
    config.shell("task", script, broker_log_stderr=True)
    daemon = start(log_level="info")
    request = client.send("task")
    daemon.wait_for_log("done task")
    lines = daemon.text().splitlines()
    said = f"INFO    stderr of task, request {request['uuid']}: "
    assert [line.partition(said)[2] for line in lines if said in line] == [
        "one",
        "2026-01-01 INFO accepted\\x1b[2J",
        "two",
    ]


def test_a_flood_of_messages_leaves_the_records_of_tasks(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.shell("task", "")
    daemon = start(log_level="info")
    for number in range(1000):
        client.send("absent")
        client.publish("no JSON at all")
        if number in (500, 999):
            client.send("task")
    daemon.wait_for_log("done task", 2)
    assert daemon.stop() == 0
    log = daemon.text()
    assert log.count(" accepted task ") == log.count(" done task ") == 2
    logged = log.count("WARNING rejected ")
    assert logged < 2000
    left_out = re.findall(r"(\d+) more rejected requests within 60 s", log)
    assert logged + sum(map(int, left_out)) == 2000
