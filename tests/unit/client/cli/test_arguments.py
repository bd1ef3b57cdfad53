"""The command line: what it takes, and what is wrong usage."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent.backends.redis.replies import MAX_REPLY
from ngcp_task_agent.client import InvalidRequest
from ngcp_task_agent.client.cli import arguments, exit_status
from ngcp_task_agent.client.cli.data import read_data
from ngcp_task_agent.client.client import MAX_DATA
from ngcp_task_agent.client.responses import MOST_NESTED
from tests.parts import ROOT


def test_defaults() -> None:
    options = arguments.parse(["--task", "t"])
    assert (options.dst, options.data, options.output) == (
        "localhost",
        None,
        "text",
    )
    assert (options.timeout, options.expect) == (None, None)
    assert str(options.config_dir) == "/etc/ngcp-task-agent"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--task"],
        ["--task", "t", "more"],
        ["t", "more"],
        ["t", "--nodes"],
        ["--task", "t", "--jobs"],
        ["--nodes", "--tasks"],
        ["--cancel", "x"],
        ["--nodes", "--data", "1"],
        ["--jobs", "--expect", "1"],
        ["--nodes", "--batch", "1"],
        ["t", "--batch", "1", "--follow"],
        ["--task", "t", "--timeout", "0"],
        ["--task", "t", "--timeout", "x"],
        ["--task", "t", "--timeout", "nan"],
        ["--task", "t", "--timeout", "inf"],
        ["--task", "t", "--answer-timeout", "-1"],
        ["--task", "t", "--expect", "0"],
        ["--task", "t", "--expect", "-1"],
        ["--task", "t", "--expect", "1.5"],
        ["--task", "t", "--expect", "1_0"],
        ["--task", "t", "--output", "xml"],
        ["--task", "t", "--out", "json"],
        ["--task", "t", "-q", "-v"],
        ["--task", "t", "--url", "redis://x", "--backend", "y"],
        ["--task", "t", "--config-dir", "/no/such/folder"],
    ],
    ids=" ".join,
)
def test_wrong_usage(
    argv: List[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments.parse(argv)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ngcp-invoke-task: error: " in captured.err


def test_data() -> None:
    assert read_data('{"a": [1, "é"]}', 1) == {"a": [1, "é"]}
    assert read_data("null", 1) is None


def test_data_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('"ä"')
    assert read_data(f"@{file}", 1) == "ä"


def from_pipe(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        return read_data("-", 30)


def test_data_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_pipe(b"[1]\n", monkeypatch) == [1]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("", "--data is not JSON"),
        ("{", "--data is not JSON"),
        ("hello", "--data is not JSON"),
        ("NaN", "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 10_000, "JSON|no reason"),
        ("\udcff", "--data is not UTF-8"),
        ("@", "cannot be read"),
        ("@/no/such/file", "/no/such/file cannot be read: No such file"),
        ("@/", "/ cannot be read: Is a directory"),
        ("@a\0b", "cannot be read"),
        ("@/dev/zero", "has more than 67108864 bytes"),
        ("@/dev/null", "is not JSON"),
    ],
)
def test_bad_data(argument: str, reason: str) -> None:
    if argument[0:1] == "9" and not hasattr(sys, "set_int_max_str_digits"):
        assert read_data(argument, 1) > 0
        return
    with pytest.raises(InvalidRequest, match=reason):
        read_data(argument, 30)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("d.json", """; @d.json for a file, '"d.json"' for a string"""),
        ("hello", """; @hello for a file, '"hello"' for a string"""),
        ("{x", ""),
        ("x" * 1000, ""),
    ],
)
def test_hint_about_bad_data(argument: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_data(argument, 1)
    reason, _, end = str(caught.value).partition(")")
    assert reason.startswith("--data is not JSON: ")
    assert end == hint


def test_bad_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="standard input is not UTF-8"):
        from_pipe(b"\xff", monkeypatch)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InvalidRequest, match="standard input is closed"):
        read_data("-", 1)


def test_data_that_never_ends(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # It is held open, but nothing is written.
    writer = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(InvalidRequest, match="did not end within 0.1 s"):
            read_data(f"@{fifo}", 0.1)
    finally:
        os.close(writer)


def test_man_page_has_all_options_and_exit_statuses() -> None:
    page = (ROOT / "man/ngcp-invoke-task.1").read_text()
    synopsis, options = page.split(".Sh DESCRIPTION")
    for action in arguments.parser()._actions:
        for option in action.option_strings:
            macro = f"Fl {option[1:]}".replace("Fl -", "Fl Fl ")
            assert macro in options, option
            if macro.startswith("Fl Fl ") and len(action.option_strings) < 2:
                assert macro in synopsis, option
    told = page.split(".Sh EXIT STATUS")[1].split(".Sh EXAMPLES")[0]
    statuses = [*exit_status.EXIT_STATUSES.values()]
    statuses += [
        v for k, v in vars(exit_status).items() if k.startswith("EX_")
    ]
    for status in statuses:
        assert f".It {status}\n" in told


def test_man_page_has_the_limits() -> None:
    page = (ROOT / "man/ngcp-invoke-task.1").read_text()
    assert f"may take {MAX_DATA >> 20} MiB of memory" in page
    assert f"of more than {MAX_REPLY >> 20} MiB is not read" in page
    assert f"below {MAX_REPLY >> 20} MiB" in page
    assert f"of more than {MOST_NESTED >> 20} MiB is ignored" in page
