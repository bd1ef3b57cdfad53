"""ngcp-task-agentctl: a terminal, signals, closed pipes, completion."""

from __future__ import annotations

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
from tests.completion import complete
from tests.invoking import environment
from tests.journal_file import JournalFile
from tests.parts import ROOT, WITHIN
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


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start commands, and end them."""
    started: List[subprocess.Popen[bytes]] = []

    def start(words: List[str], **options: Any) -> subprocess.Popen[bytes]:
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

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def following(start: Start, written: JournalFile) -> Any:
    """Start ``log --follow``, and let it show the last records."""
    process = start(log(written, "--follow"))
    assert process.stdout
    for number in range(10, 20):
        assert f"task{number} ".encode() in process.stdout.readline()
    add(written, 20)
    assert b"task20 " in process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_with_a_signal(
    number: signal.Signals, start: Start, written: JournalFile
) -> None:
    process = following(start, written)
    process.send_signal(number)
    assert process.wait(WITHIN) == -number
    assert process.stderr.read() == b""


def test_following_ends_when_nobody_reads(
    start: Start, written: JournalFile
) -> None:
    """Even if no record comes."""
    process = following(start, written)
    process.stdout.close()
    process.stdout = None
    assert process.wait(WITHIN) == 141
    assert process.stderr.read() == b""


def test_a_reader_that_stops_early(start: Start, written: JournalFile) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start(log(written), stdout=write)
    os.close(write)
    assert process.wait(WITHIN) == 141
    assert process.stderr
    assert process.stderr.read() == b""


@pytest.mark.parametrize("words", [["log"], ["check"], ["--help"]], ids=str)
def test_output_that_cannot_be_written(
    words: List[str], start: Start, written: JournalFile
) -> None:
    command = log(written) if words == ["log"] else [*SCRIPT, *words]
    with open("/dev/full", "wb") as full:
        process = start(command, stdout=full)
    assert process.wait(WITHIN) == 74
    assert process.stderr
    assert process.stderr.read() == (
        b"ngcp-task-agentctl: standard output: No space left on device\n"
    )


def test_closed_output(start: Start, written: JournalFile) -> None:
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *log(written)]
    process = start(words)
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
