"""ngcp-invoke-task on a terminal: the live view, Ctrl-C, completion."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import pytest

from tests.completion import complete
from tests.crowd import answer
from tests.integration.conftest import ConfigFolder
from tests.invoking import command, environment, wrapper
from tests.parts import WITHIN, Daemon, RedisServer
from tests.terminal import Terminal

Start = Callable[..., Daemon]


@pytest.fixture
def terminal(config: ConfigFolder) -> Iterator[Callable[..., Terminal]]:
    """Run commands on terminals, and close them at the end."""
    terminals: List[Terminal] = []

    def terminal(
        task: str, *arguments: str, before: Sequence[str] = (), **more: Any
    ) -> Terminal:
        words = command("--config-dir", str(config.path), "--task", task)
        terminals.append(Terminal([*before, *words, *arguments], **more))
        return terminals[-1]

    yield terminal
    for one in terminals:
        one.close()


def last_view(text: str) -> str:
    """Return the live view as drawn last, and what follows."""
    return text[text.rindex("┏") :]


def test_live_view(
    folder: Path,
    server: RedisServer,
    config: ConfigFolder,
    start: Start,
    terminal: Callable[..., Terminal],
) -> None:
    go = folder / "go"
    wait = f"until [ -e {go} ]; do sleep 0.05; done"
    config.shell("work", f"{wait}; echo one")
    start()
    for name, script in (
        ("sp2", "echo broken >&2; exit 3"),
        ("sp3", ""),
    ):
        more = ConfigFolder(folder / name, server.port)
        more.agent(node={"name": name})
        # An agent without tasks does not listen.
        more.shell("work" if script else "other", script)
        start(config=more)
    shown = terminal("work", "--dst", "sp*", "--expect", "3")
    # While it runs: which nodes have ended how, and which still run.
    shown.read_until("running")
    shown.read_until("exit status 3: broken")
    shown.read_until("unknown task 'work'")
    assert "one\n" not in shown.text
    # The clock advances without responses.
    before = len(re.findall(r"work on sp\*, [0-9.]+ s", shown.text))
    deadline = time.monotonic() + WITHIN
    while len(re.findall(r"work on sp\*, [0-9.]+ s", shown.text)) <= before:
        assert time.monotonic() < deadline
        shown._read()
    go.touch()
    shown.end(1)
    view = last_view(shown.text)
    assert re.search(r"sp1 +│ done +│ [0-9.]+ s +│ [0-9.]+ s +│ +│", view)
    assert re.search(r"sp2 +│ error .*exit status 3: broken", view)
    assert re.search(r"sp3 +│ rejected .*unknown task 'work'", view)
    # The data follows, once the view is final.
    assert view.rstrip().endswith("one")


def rows(view: str) -> List[str]:
    """Return the rows of the nodes in a view."""
    return [line for line in view.splitlines() if line.startswith("│")]


def test_many_nodes(
    scripted: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        for number in range(1000):
            yield answer(request, f"n{number}", "accepted")
        for number in range(900):
            yield answer(request, f"n{number}", "done")
        yield answer(request, "n900", "error", reason="it broke")

    scripted(script)
    shown = terminal("t", "--dst", "*", "--timeout", "6")
    # As much as fits on the terminal, with problems first.
    shown.read_until("900 done")
    view = last_view(shown.text)
    assert re.search(r"n900 +│ error ", view)
    assert re.search(r"n901 +│ running ", view)
    assert re.search("and [0-9]+ more: ", view)
    frames = shown.text.split("┏")[1:-1]
    assert all(len(rows(frame)) < 45 for frame in frames)
    shown.end(1)
    # At the end, all problems stay.
    view = last_view(shown.text)
    assert len(rows(view)) == 100
    assert "and 900 more: 900 done" in view


@pytest.mark.parametrize("size", [(20, 5), (10, 2), (120, 5)])
def test_small_terminal(
    size: Tuple[int, int],
    scripted: Callable[..., Any],
    terminal: Callable[..., Terminal],
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        yield answer(request, "n1", "accepted")
        for number in range(2, 12):
            yield answer(request, f"n{number}", "done")

    scripted(script)
    shown = terminal("t", "--dst", "*", "--timeout", "100", size=size)
    shown.read_until("n1 running")
    shown.type(b"\x03")
    shown.end(-signal.SIGINT)


def test_control_c_while_many_nodes_answer(
    scripted: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        for number in itertools.count():
            yield answer(request, f"n{number}", "accepted")

    scripted(script)
    shown = terminal("t", "--dst", "*", "--timeout", "100")
    shown.read_until(" more: ")
    shown.type(b"\x03")
    shown.end(-signal.SIGINT)


@pytest.mark.parametrize(
    ("data", "status"),
    # Without data, only the view is shown.
    [("", 5), ("data", 74)],
)
def test_stopped_terminal(
    data: str,
    status: int,
    scripted: Callable[..., Any],
    terminal: Callable[..., Terminal],
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        yield answer(request, "n1", "accepted")
        yield answer(request, "n2", "accepted")
        yield answer(request, "n1", "done", data=data)

    scripted(script)
    shown = terminal("t", "--dst", "*", "--timeout", "4")
    shown.read_until("done")
    shown.type(b"\x13")  # Ctrl-S
    shown.wait(status)


def test_view_on_the_terminal_and_data_elsewhere(
    folder: Path,
    config: ConfigFolder,
    start: Start,
    terminal: Callable[..., Terminal],
) -> None:
    config.shell("hello", "echo hello")
    start()
    with open(folder / "out", "w+b") as out:
        shown = terminal("hello", "--dst", "sp1", output=out)
        shown.end(0)
        out.seek(0)
        assert out.read() == b"hello\n"
    assert "done" in last_view(shown.text)
    assert "hello\n" not in shown.text


def test_next_program_in_a_pipe_gets_the_terminal(
    scripted: Callable[..., Any], terminal: Callable[..., Terminal]
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        yield answer(request, "n1", "accepted")
        yield answer(request, "n1", "done", data="one\n")
        yield answer(request, "n2", "error", reason="broken", data="two\n")

    scripted(script)
    shown = terminal(
        *("t", "--dst", "*", "--expect", "2"),
        before=("bash", "-o", "pipefail", "-c", '"$@" | cat', "bash"),
    )
    shown.end(1)
    assert b"\x1b" not in shown.raw
    lines = shown.text.splitlines()
    assert [line for line in lines if "n2: error after" in line]
    assert [line for line in lines if line in ("one", "two")] == ["one", "two"]


def test_remote_text_cannot_control_the_terminal(
    config: ConfigFolder, start: Start, terminal: Callable[..., Terminal]
) -> None:
    config.shell("nasty", r"printf '\033]0;title\007\033[31m[red]' >&2; false")
    start()
    shown = terminal("nasty", "--dst", "sp1", "--expect", "1")
    shown.end(1)
    assert b"\x1b]0;" not in shown.raw
    assert b"\x07" not in shown.raw
    shown_words = "".join(last_view(shown.text).split())
    assert r"\x1b]0;title\x07\x1b[31m[red]" in shown_words


@pytest.mark.parametrize("form", ["text", "json", "table"])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_data_cannot_control_the_terminal(
    form: str,
    term: str,
    scripted: Callable[..., Any],
    terminal: Callable[..., Terminal],
) -> None:
    nasty = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b1m\x7f\r\u202ex\ta b\n"

    def script(request: Dict[str, Any]) -> Iterator[Any]:
        yield answer(request, "n1", "done", data=nasty)

    scripted(script)
    shown = terminal(
        *("t", "--dst", "*", "--expect", "1", "--output", form), TERM=term
    )
    shown.end(0)
    for bad in (b"\x1b]", b"\x1b[2J", b"\x9b", b"\x07", b"\x7f", b"\xe2\x80"):
        assert bad not in shown.raw.replace("…".encode(), b"")
    if form == "text":
        assert shown.text.endswith(
            r"\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b1m\x7f\r\u202ex"
            "\ta b\n"
        )


def test_interrupted_by_control_c(
    config: ConfigFolder, start: Start, terminal: Callable[..., Terminal]
) -> None:
    config.shell("slow", "sleep 3")
    start()
    shown = terminal("slow", "--dst", "sp1")
    shown.read_until("running")
    shown.type(b"\x03")
    shown.end(-signal.SIGINT)
    running, way_out = shown.text.splitlines()[-2:]
    assert running.endswith("interrupted; still running or queued: sp1")
    assert "to end it: ngcp-invoke-task --cancel " in way_out
    # The cursor, hidden by the live view, is back.
    assert shown.raw.rindex(b"\x1b[?25h") > shown.raw.rindex(b"\x1b[?25l")


def test_node_that_never_ends(
    config: ConfigFolder, start: Start, terminal: Callable[..., Terminal]
) -> None:
    config.shell("slow", "sleep 3")
    start()
    shown = terminal("slow", "--dst", "sp1", "--timeout", "2")
    shown.end(5)
    assert shown.text.rstrip().endswith("queued): sp1")


@pytest.mark.parametrize(
    ("arguments", "term"),
    [(["-q"], "xterm"), ([], "dumb"), (["--version"], "xterm")],
)
def test_without_the_view(
    arguments: List[str],
    term: str,
    config: ConfigFolder,
    start: Start,
    terminal: Callable[..., Terminal],
) -> None:
    config.shell("hello", "echo hello")
    start()
    shown = terminal("hello", "--dst", "sp1", *arguments, TERM=term)
    shown.end(0)
    assert b"\x1b" not in shown.raw
    if "--version" not in arguments:
        assert shown.text == "hello\n"


def test_rich_is_not_loaded_without_a_terminal(
    config: ConfigFolder, start: Start
) -> None:
    config.shell("hello", "echo hello")
    start()
    words = command("--config-dir", str(config.path), "--task", "hello")
    done = subprocess.run(
        [words[0], "-X", "importtime", *words[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=WITHIN,
    )
    assert done.stdout == b"hello\n"
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.decode().splitlines()
    }
    assert "ngcp_task_agent" in loaded
    assert not {"rich", "argcomplete"} & loaded


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--task kam_", {"kam_lb_reload", "kam_proxy_reload"}),
        ("--task kam_p", {"kam_proxy_reload"}),
        ("--task kam_ --backend ", {"redis", "second"}),
        ("--backend second --task ", {"on_second"}),
        ("--output j", {"json", "jsonl"}),
        ("--ex", {"--expect"}),
        ("--dat", {"--data"}),
        ("--data @{}/t", {"{}/tasks/", "@{}/tasks/"}),
    ],
)
def test_completion(
    line: str, found: Any, folder: Path, config: ConfigFolder
) -> None:
    for name in ("kam_proxy_reload", "kam_lb_reload", "other"):
        config.task(name, "true")
    config.backend("second")
    config.task("on_second", "true", backend="second")
    path = (
        f"{wrapper(folder / 'bin', config.path)}:"
        f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    line = f"--config-dir {config.path} {line.format(config.path)}"
    completed = complete("ngcp-invoke-task", line, path)
    expected = {word.format(config.path) for word in found}
    if "@" in line:
        # Newer versions leave out what bash takes for a separate word.
        assert completed < expected
    else:
        assert completed == expected
