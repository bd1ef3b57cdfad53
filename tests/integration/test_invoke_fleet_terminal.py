"""ngcp-invoke-task and a fleet on a terminal: tables, headings, live lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import pytest

from tests.completion import complete
from tests.crowd import JOB, Crowd, Played, answer
from tests.integration.conftest import ConfigFolder, Scripted
from tests.invoking import command, environment, wrapper
from tests.parts import WITHIN, RedisServer, wait_for
from tests.terminal import Terminal

Open = Callable[..., Terminal]


@pytest.fixture
def terminal(server: RedisServer, folder: Path) -> Iterator[Open]:
    """Run the command on terminals, and close them at the end."""
    terminals: List[Terminal] = []

    def terminal(
        *arguments: str, before: Sequence[str] = (), **more: Any
    ) -> Terminal:
        url = f"redis://127.0.0.1:{server.port}"
        words = command("--url", url, "--answer-timeout", "2", *arguments)
        more.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
        terminals.append(Terminal([*before, *words], **more))
        return terminals[-1]

    yield terminal
    for one in terminals:
        one.close()


@pytest.fixture
def fleet(scripted: Callable[..., Scripted]) -> Crowd:
    nodes = [
        Played("prx01a", roles=["proxy"], data="same\n"),
        Played("prx01b", roles=["proxy"], data="same\n"),
        Played("lb01\x1b[2J", roles=["lb"], data="other"),
        Played(
            "db01",
            is_old=True,
            ends="rejected",
            reason="unknown task 'reload'",
            jobs=[JOB],
        ),
    ]
    crowd = Crowd(*nodes)
    scripted(crowd.answers)
    return crowd


@pytest.mark.usefixtures("fleet")
def test_table_of_nodes(terminal: Open) -> None:
    shown = terminal("--nodes")
    shown.end(0)
    assert re.search(r"┃ Node +┃ Roles +┃ State +┃", shown.text)
    assert re.search(r"│ prx01a +│ proxy +│ active +│ online │", shown.text)
    assert "unknown task 'ngcp.ping'" in " ".join(shown.text.split())
    assert b"\x1b[2J" not in shown.raw
    assert r"lb01\x1b[2J" in shown.text


@pytest.mark.usefixtures("fleet")
def test_list_of_nodes_on_a_narrow_terminal(terminal: Open) -> None:
    shown = terminal("--nodes", size=(40, 10))
    shown.end(0)
    assert "│" not in shown.text
    assert "Node:    prx01a\nRoles:   proxy\n" in shown.text


@pytest.mark.usefixtures("fleet")
def test_plain_columns_on_a_dumb_terminal(terminal: Open) -> None:
    shown = terminal("--tasks", "--dst", "prx*", TERM="dumb")
    shown.end(0)
    assert shown.text == (
        "TASK    NODES           DESCRIPTION\n"
        "reload  prx01a, prx01b  Load the routes again.\n"
    )


@pytest.mark.usefixtures("fleet")
def test_no_jobs(terminal: Open) -> None:
    shown = terminal("--jobs", "--dst", "prx01a")
    shown.end(0)
    assert shown.text == "ngcp-invoke-task: no request runs or waits\n"


@pytest.mark.usefixtures("fleet")
def test_heading_for_each_node(terminal: Open) -> None:
    shown = terminal("reload", "--dst", "prx*,lb*")
    shown.end(0)
    parts = [f"{node}:\nsame\n" for node in ("prx01a", "prx01b")]
    parts.append("lb01\\x1b[2J:\nother\n")
    assert shown.text.endswith("\n" + "\n".join(parts))
    # A single node needs none.
    shown = terminal("reload", "--dst", "prx01a", TERM="dumb")
    shown.end(0)
    assert shown.text == "same\n"


@pytest.mark.usefixtures("fleet")
def test_gathered(terminal: Open) -> None:
    shown = terminal(
        *("reload", "--dst", "*", "--output", "gathered", "-q"), TERM="dumb"
    )
    shown.end(3)
    assert shown.text == (
        "prx01a, prx01b (2):\nsame\n\nlb01\\x1b[2J:\nother\n\n"
        "db01: rejected: unknown task 'reload'\n"
    )


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (100, r"│ prx01a +│ error +│ [\d.]+ s +│ [\d.]+ s +│ no database │"),
        (70, r"│ prx01a +│ error +│ [\d.]+ s +│ no database │"),
        (50, r"prx01a error: no database\n"),
    ],
)
def test_live_view_fits_the_terminal(
    columns: int, row: str, terminal: Open, fleet: Crowd
) -> None:
    fleet.nodes[0].ends = "error"
    fleet.nodes[0].reason = "no database"
    shown = terminal("reload", "--dst", "prx*", size=(columns, 20))
    shown.end(1)
    assert re.search(row, shown.text)
    assert max(map(len, shown.text.splitlines())) <= columns


def test_live_view_names_who_has_not_answered(
    terminal: Open, fleet: Crowd
) -> None:
    shown = terminal("reload", "--dst", "prx01a,prx02a")
    shown.read_until("no answer yet: prx02a")
    shown.end(5)
    end = shown.text[shown.text.rindex("└") :]
    assert "no answer yet" not in end
    assert "ngcp-invoke-task: prx02a: no answer\n" in end


def followed(request: Dict[str, Any]) -> Iterator[Any]:
    def live(node: str, number: int, data: str, **more: Any) -> Any:
        stream = {"ref": request["uuid"], "task": "t", "src": node, **more}
        return {"stream": "stdout", "number": number, "data": data, **stream}

    yield answer(request, "n1", "accepted")
    yield answer(request, "n2", "accepted")
    yield live("n1", 1, "one\n")
    yield live("n1", 2, "\x1b[2Jtwo\n", stream="stderr")
    yield live("n2", 1, "later\n", omitted=77)
    yield answer(request, "n1", "done", data="one\nlast\n")
    yield answer(request, "n3", "accepted")
    yield answer(request, "n3", "done", data="all at once")


def test_follow_in_the_live_view(
    terminal: Open, scripted: Callable[..., Scripted]
) -> None:
    scripted(followed)
    shown = terminal("t", "--dst", "*", "--follow", "--timeout", "60")
    shown.read_until("n1: one\n")
    shown.read_until(r"n1: \x1b[2Jtwo")
    shown.read_until("n2: … 77 bytes left out\nn2: later\n")
    # What was not shown until then comes at the end.
    shown.read_until("n1: last\n")
    shown.read_until("n3: all at once\n")
    shown.read_until("n2   │ running")
    shown.type(b"\x03")
    shown.end(-2)
    assert b"\x1b[2Jtwo" not in shown.raw
    assert shown.text.count("n1: one\n") == 1
    end = shown.text[shown.text.rindex("└") :]
    assert "to end it: ngcp-invoke-task --cancel " in end


def test_follow_in_a_pipe(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> None:
    scripted(followed)
    url = f"redis://127.0.0.1:{server.port}"
    words = command("--url", url, "t", "--dst", "*", "--follow")
    with subprocess.Popen(
        [*words, "--expect", "2"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        out, _ = process.communicate(timeout=WITHIN)
    assert process.returncode == 0
    lines = out.decode().splitlines()
    assert [line for line in lines if line.startswith("n1")] == [
        "n1: one",
        "n1: \x1b[2Jtwo",
        "n1: last",
    ]
    assert lines[-1] == "n3: all at once"
    assert "n2: … 77 bytes left out" in lines


def test_live_output_that_breaks_off(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> None:
    def cut_off(request: Dict[str, Any]) -> Iterator[Any]:
        yield answer(request, "n1", "accepted")
        admin = server.connect()
        # The connection for live output is the newest one.
        subscribed = admin.client_list(_type="pubsub")
        newest = max(int(client["id"]) for client in subscribed)
        admin.client_kill_filter(_id=str(newest))
        wait_for(lambda: len(admin.client_list(_type="pubsub")) == 2)
        admin.connection_pool.disconnect()
        yield answer(request, "n1", "done", data="one\ntwo\n")

    scripted(cut_off)
    url = f"redis://127.0.0.1:{server.port}"
    done = subprocess.run(
        command("--url", url, "t", "--dst", "*", "--follow"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        env=environment(),
    )
    # The task's end, and all of its output, still arrive.
    assert (done.returncode, done.stdout) == (0, "n1: one\nn1: two\n")
    assert "live output" in done.stderr


def test_unused_data_is_reported(
    terminal: Open, scripted: Callable[..., Scripted]
) -> None:
    def unused(request: Dict[str, Any]) -> Iterator[Any]:
        yield answer(request, "n1", "accepted")
        yield answer(request, "n1", "done", unused=True)

    scripted(unused)
    arguments = ("t", "--dst", "n1", "--data", '"bob"')
    shown = terminal(*arguments, TERM="dumb")
    shown.end(0)
    assert "n1: the task could not use --data, which is no obj" in shown.text
    shown = terminal(*arguments, "-q", TERM="dumb")
    shown.end(0)
    assert shown.text == ""


def test_control_c_ends_the_loop_of_a_shell(
    terminal: Open, scripted: Callable[..., Scripted]
) -> None:
    scripted(lambda request: [answer(request, "n1", "accepted")])
    loop = 'for i in 1 2 3; do "$@"; echo "after $i"; done; echo end'
    shown = terminal("t", "--dst", "n1", before=("bash", "-c", loop, "bash"))
    shown.read_until("n1   │ running")
    shown.type(b"\x03")
    shown.end(-2)
    assert "interrupted; still running or queued: n1" in shown.text
    assert "after 1" not in shown.text
    assert "end\n" not in shown.text


@pytest.mark.parametrize(
    ("signal", "status"), [("INT", -2), ("TERM", -15)], ids=str
)
def test_the_command_dies_of_the_signal(
    signal: str,
    status: int,
    server: RedisServer,
    scripted: Callable[..., Scripted],
) -> None:
    scripted(lambda request: [answer(request, "n1", "accepted")])
    url = f"redis://127.0.0.1:{server.port}"
    words = command("--url", url, "t", "--dst", "*")
    process = subprocess.Popen(
        [*words, "-v"], stderr=subprocess.PIPE, env=environment()
    )
    with process:
        assert process.stderr
        while b"n1: accepted" not in process.stderr.readline():
            pass
        subprocess.run(["kill", f"-{signal}", str(process.pid)], check=True)
        assert process.wait(WITHIN) == status


def test_ignored_control_c_stays_ignored(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> None:
    scripted(lambda request: [answer(request, "n1", "accepted")])
    url = f"redis://127.0.0.1:{server.port}"
    words = command("--url", url, "t", "--dst", "*", "--timeout", "3", "-v")
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *words]
    process = subprocess.Popen(
        shell, stderr=subprocess.PIPE, env=environment()
    )
    with process:
        assert process.stderr
        while b"n1: accepted" not in process.stderr.readline():
            pass
        process.send_signal(2)
        assert process.wait(WITHIN) == 5


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rel", {"reload"}),
        ("--task rel", {"reload"}),
        ("reload --dst p", {"prx01a", "prx01b"}),
        ("reload --dst prx01a,d", {"prx01a,db01"}),
        ("reload --dst '*|ro", {"*|role="}),
        ("reload --dst '*|role=p", {"*|role=proxy"}),
        ("--cancel c", {JOB}),
        ("--no", {"--nodes"}),
        ("--url r", {"redis://", "rediss://"}),
        ("--channel ng", {"ngcp-task-agent-redis"}),
        ("--timeout ", {""}),
        ("--expect ", {""}),
        ("reload --output g", {"gathered"}),
    ],
)
@pytest.mark.usefixtures("fleet")
def test_completion_of_what_was_shown(
    line: str,
    found: Any,
    folder: Path,
    server: RedisServer,
    config: ConfigFolder,
) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    cache = str(folder / "cache")
    (folder / "cache").mkdir()
    (folder / "cache/ngcp-invoke-task.json").write_text(
        '{"nodes": ["prx01a", "prx01b", "db01"], "tasks": ["reload"],'
        f'"options": ["role=proxy", "role=lb"], "jobs": ["{JOB}"]}}'
    )
    path = (
        f"{wrapper(folder / 'bin', config.path)}:"
        f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    completed = complete("ngcp-invoke-task", line, path, XDG_CACHE_HOME=cache)
    assert {word.replace("\\", "") for word in completed} == found, url
