"""ngcp-task-agentctl: a terminal, signals, closed pipes, completion."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ngcp_task_agent.logs import journal
from tests.bus import PrivateBus
from tests.completion import complete
from tests.integration.conftest import ConfigFolder
from tests.invoking import environment
from tests.journal_file import JournalFile
from tests.parts import ROOT, WITHIN, Client, Daemon, wait_for
from tests.running_agent import ONE
from tests.terminal import Terminal

PROGRAM = "ngcp-task-agentctl"
SCRIPT = [sys.executable, str(ROOT / "bin" / PROGRAM)]
WITH_AGENT = [sys.executable, "-m", "tests.running_agent"]
NO_BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}


@pytest.fixture
def written(tmp_path: Path) -> Iterator[JournalFile]:
    """A journal with some records."""
    made = JournalFile(tmp_path / "journal")
    for number in range(20):
        add(made, number)
    yield made
    made.close()


def add(to: JournalFile, number: int) -> None:
    """Add the record of a rejected request."""
    to.add(
        time.time(),
        {
            "MESSAGE": "rejected",
            "MESSAGE_ID": journal.REQUEST_REJECTED.message_id,
            "NGCP_TASK": f"task{number}",
            "NGCP_TASK_UUID": ONE,
            "NGCP_TASK_SRC": "\x1b[2J",
            "NGCP_TASK_STATUS": "rejected",
            "_SYSTEMD_UNIT": "ngcp-task-agent.service",
            "_UID": 0,
            "_COMM": "ngcp-task-agent",
        },
    )


def log(written: JournalFile, *words: str) -> List[str]:
    folder = str(written.path.parent)
    return [*SCRIPT, "log", "--directory", folder, *words]


Launch = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Launch commands, and end them."""
    started: List[subprocess.Popen[bytes]] = []

    def launch(words: List[str], **options: Any) -> subprocess.Popen[bytes]:
        options.setdefault("stdout", subprocess.PIPE)
        one = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(**NO_BUS),
            **options,
        )
        started.append(one)
        return one

    yield launch
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def following(launch: Launch, written: JournalFile) -> Any:
    """Launch ``log --follow``, and let it show the last records."""
    process = launch(log(written, "--follow"))
    assert process.stdout
    for number in range(10, 20):
        assert f"task{number} ".encode() in process.stdout.readline()
    add(written, 20)
    assert b"task20 " in process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_with_a_signal(
    number: signal.Signals, launch: Launch, written: JournalFile
) -> None:
    process = following(launch, written)
    process.send_signal(number)
    assert process.wait(WITHIN) == -number
    assert process.stderr.read() == b""


def test_following_ends_when_nobody_reads(
    launch: Launch, written: JournalFile
) -> None:
    """Even if no record comes."""
    process = following(launch, written)
    process.stdout.close()
    process.stdout = None
    assert process.wait(WITHIN) == 141
    assert process.stderr.read() == b""


def test_a_reader_that_stops_early(
    launch: Launch, written: JournalFile
) -> None:
    read, write = os.pipe()
    os.close(read)
    process = launch(log(written), stdout=write)
    os.close(write)
    assert process.wait(WITHIN) == 141
    assert process.stderr
    assert process.stderr.read() == b""


@pytest.mark.parametrize("words", [["log"], ["check"], ["--help"]], ids=str)
def test_output_that_cannot_be_written(
    words: List[str], launch: Launch, written: JournalFile
) -> None:
    command = log(written) if words == ["log"] else [*SCRIPT, *words]
    with open("/dev/full", "wb") as full:
        process = launch(command, stdout=full)
    assert process.wait(WITHIN) == 74
    assert process.stderr
    assert process.stderr.read() == (
        b"ngcp-task-agentctl: standard output: No space left on device\n"
    )


def test_closed_output(launch: Launch, written: JournalFile) -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *log(written)]
    process = launch(words)
    assert process.wait(WITHIN) == 74
    assert process.stderr
    assert b"Bad file" in process.stderr.read()


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: List[Terminal] = []

    def terminal(words: List[str], **options: Any) -> Terminal:
        terminals.append(Terminal(words, **{**options, **NO_BUS}))
        return terminals[-1]

    yield terminal
    for one in terminals:
        one.close()


@pytest.mark.parametrize("command", ["status", "tasks", "jobs"])
def test_tables_on_a_terminal(
    command: str, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal([*WITH_AGENT, command])
    shown.end(0)
    assert "│" in shown.text
    assert "ping" in shown.text
    for bad in (b"\x1b]", b"\x07", "\u202e".encode()):
        assert bad not in shown.raw
    if command != "status":
        # Brackets are no markup.
        assert r"\x1b]0;x\x07[red]" in shown.text


def test_a_terminal_without_tables(
    terminal: Callable[..., Terminal],
) -> None:
    shown = terminal([*WITH_AGENT, "jobs"], TERM="dumb")
    shown.end(0)
    assert shown.text.startswith("REQUEST ")


def test_a_narrow_terminal(terminal: Callable[..., Terminal]) -> None:
    shown = terminal([*WITH_AGENT, "jobs"], size=(60, 20))
    shown.end(0)
    assert max(map(len, shown.text.splitlines())) <= 60


def test_log_on_a_terminal(
    written: JournalFile, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal(log(written))
    shown.end(0)
    assert r"task0 from \x1b[2J" in shown.text
    assert b"\x1b" not in shown.raw


def test_control_c(
    written: JournalFile, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal(log(written, "--follow"))
    shown.read_until("task19 ")
    shown.type(b"\x03")
    shown.end(-signal.SIGINT)


def script(folder: Path, words: List[str]) -> str:
    """Return a $PATH with a program of these words."""
    folder.mkdir()
    file = folder / PROGRAM
    file.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    file.chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ca", {"cancel"}),
        ("cancel ", {ONE, "--help", "-h"}),
        ("cancel a", {ONE}),
        ("log a", {ONE}),
        ("log --task p", {"ping"}),
        ("log --f", {"--follow"}),
        ("status --j", {"--json"}),
    ],
)
def test_completion(line: str, found: Any, tmp_path: Path) -> None:
    path = script(tmp_path / "bin", WITH_AGENT)
    assert complete(PROGRAM, line, path) in (found, found - {"--help", "-h"})


def test_completion_without_a_bus(tmp_path: Path) -> None:
    path = script(tmp_path / "bin", SCRIPT)
    assert complete(PROGRAM, "cancel a", path, **NO_BUS) <= {""}
    assert complete(PROGRAM, "log --task p", path, **NO_BUS) <= {""}


def test_a_running_agent(
    bus: PrivateBus,
    config: ConfigFolder,
    managed: Callable[..., Daemon],
    client: Client,
) -> None:
    config.shell("slow", "exec sleep 600", max_running=1)
    managed()

    def ask(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*SCRIPT, *words],
            env=environment(DBUS_SYSTEM_BUS_ADDRESS=bus.address),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )
        assert done.returncode == status, done.stderr
        return done

    first, second = client.send("slow"), client.send("slow")
    jobs = wait_for(
        lambda: (
            (found := json.loads(ask("jobs", "--json").stdout))[1:] and found
        )
    )
    assert [job["state"] for job in jobs] == ["running", "queued"]
    assert [job["uuid"] for job in jobs] == [first["uuid"], second["uuid"]]
    found = json.loads(ask("status", "--json").stdout)
    assert found["node"]["name"] == "sp1"
    assert found["backends"] == [
        {"name": "redis", "state": "subscribed", "reason": ""}
    ]
    assert found["tasks"][0]["counters"]["accepted"] == 2
    assert ask("tasks").stdout.splitlines()[1].split()[0] == "slow"
    for request in (second, first):
        ask("cancel", request["uuid"].upper())
        assert client.ending()["ref"] == request["uuid"]
    ask("cancel", first["uuid"], status=1)
    assert ask("reload").stdout == ""
    file = config.write("tasks/bad.yml", "nonsense: 1")
    assert f"{file}:1: " in ask("reload", status=78).stderr
