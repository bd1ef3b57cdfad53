"""ngcp-invoke-task, a few nodes at a time."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from importlib import resources
from typing import Any, Callable, Iterator, List

import jsonschema
import pytest

from tests.crowd import Crowd, Played
from tests.integration.conftest import Scripted
from tests.invoking import Invoked, command, environment
from tests.parts import WITHIN, RedisServer
from tests.terminal import Terminal

SILENCE = ("--answer-timeout", "2")


@pytest.fixture(scope="module")
def schema() -> Any:
    file = resources.files("ngcp_task_agent.client") / "output.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


class Run:
    """The command, and the nodes that it can reach."""

    def __init__(self, server: RedisServer, crowd: Crowd) -> None:
        self.crowd = crowd
        self._url = f"redis://127.0.0.1:{server.port}"

    def words(self, *arguments: str) -> List[str]:
        return command("--url", self._url, "reload", *arguments)

    def __call__(self, *arguments: str) -> Invoked:
        return Invoked(
            subprocess.run(
                self.words(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment(),
                timeout=2 * WITHIN,
            )
        )


@pytest.fixture
def nodes(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> Callable[..., Run]:
    def nodes(*played: Played) -> Run:
        crowd = Crowd(*played)
        scripted(crowd.answers)
        return Run(server, crowd)

    return nodes


Nodes = Callable[..., Run]


def many(count: int) -> List[Played]:
    return [Played(f"n{number:03}") for number in range(count)]


def proxies(**ends: str) -> List[Played]:
    return [
        Played(name, data=f"{name} was here\n", ends=ends.get(name, "done"))
        for name in ("prx01a", "prx01b", "prx02a", "prx02b")
    ]


def test_hundred_nodes_and_a_failure_stops_the_rest(nodes: Nodes) -> None:
    played = many(100)
    played[34].ends = "error"
    run = nodes(*played)
    done = run("--dst", "n*|state=active", "--batch", "10", *SILENCE)
    assert done.status == 1
    assert run.crowd.ran == [f"n{number:03}" for number in range(40)]
    assert len(run.crowd.requests) == 4
    lines = [line.partition(": ")[2] for line in done.err.splitlines()]
    assert lines[0].startswith("batch 1: n000, n001, ")
    assert lines[0].endswith("n009; 90 to go")
    assert lines[3].startswith("batch 4: n030, ")
    assert lines[4].startswith("n034: error after ")
    assert lines[5] == "stopped after 1 failure"
    left = ", ".join(f"n{number:03}" for number in range(40, 100))
    assert lines[6:] == [f"not reached: {left}"]


def test_all_is_well(nodes: Nodes) -> None:
    run = nodes(*proxies())
    done = run("--dst", "prx*", "--batch", "50%")
    assert done.status == 0
    assert done.out.splitlines() == [
        f"{name} was here" for name in run.crowd.ran
    ]
    assert done.err == (
        "ngcp-invoke-task: batch 1: prx01a, prx01b; 2 to go\n"
        "ngcp-invoke-task: batch 2: prx02a, prx02b\n"
    )
    done = run("--dst", "prx*", "--batch", "3", "-q")
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("ends", "status", "says"),
    [
        ("error", 1, "prx01b: error after "),
        ("rejected", 3, "prx01b: rejected: as the test wants it"),
        ("silent", 5, "prx01b: no answer"),
        ("never", 5, "accepted but not ended after "),
    ],
)
def test_exit_status(nodes: Nodes, ends: str, status: int, says: str) -> None:
    run = nodes(*proxies(prx01b=ends))
    words = ("--dst", "*", "--batch", "1", "--timeout", "3", *SILENCE)
    done = run(*words)
    assert done.status == status
    assert says in done.err
    assert "stopped after 1 failure\n" in done.err
    assert done.err.endswith("not reached: prx02a, prx02b\n")
    assert run.crowd.ran == ["prx01a", "prx01b"]
    # Allowed, but still not a success.
    done = run(*words, "--max-failures", "1")
    assert done.status == status
    assert run.crowd.ran[2:] == ["prx01a", "prx01b", "prx02a", "prx02b"]
    assert "not reached" not in done.err


def test_worst_outcome_counts(nodes: Nodes) -> None:
    run = nodes(*proxies(prx01a="rejected", prx01b="error", prx02a="silent"))
    words = ("--dst", "*", "--batch", "1", "--max-failures", "3", *SILENCE)
    assert run(*words).status == 1
    run.crowd["prx01b"].ends = "done"
    assert run(*words).status == 5


def test_expected_node_that_is_not_there(nodes: Nodes) -> None:
    run = nodes(*proxies())
    words = ("--dst", "prx03a,prx01a", "--batch", "1", *SILENCE)
    done = run(*words)
    assert done.status == 5
    assert "prx03a: no answer\n" in done.err
    assert done.err.endswith("not reached: prx01a\n")
    assert run.crowd.ran == []
    done = run(*words, "--max-failures", "1")
    assert (done.status, run.crowd.ran) == (5, ["prx01a"])


def test_two_nodes_of_one_name(nodes: Nodes) -> None:
    run = nodes(*proxies(), Played("prx01a"))
    done = run("--dst", "prx*", "--batch", "1")
    assert (done.status, run.crowd.ran) == (1, [])
    assert "several nodes call themselves 'prx01a'" in done.err
    assert done.err.endswith("not reached: prx01b, prx02a, prx02b, prx01a\n")
    done = run("--dst", "prx*", "--batch", "9", "--max-failures", "1")
    assert (done.status, len(run.crowd.ran)) == (1, 3)
    assert "stopped" not in done.err
    assert done.err.endswith("not reached: prx01a\n")


def test_node_that_answers_for_another(nodes: Nodes) -> None:
    run = nodes(Played("prx01a", aliases=("prx01b",)), Played("prx01b"))
    done = run("--dst", "*", "--batch", "1")
    assert (done.status, run.crowd.ran[:1]) == (1, ["prx01a"])
    assert "prx01a: answered in the turn of another: one of its na" in done.err


def test_nobody_is_there(nodes: Nodes) -> None:
    done = nodes()("--dst", "x\x1b*", "--batch", "1", *SILENCE)
    assert (done.status, done.out) == (4, "")
    assert "no node answered" in done.err
    assert "\x1b" not in done.err


def test_json(nodes: Nodes, schema: Any) -> None:
    run = nodes(*proxies(prx01b="silent", prx02a="error"))
    done = run(
        *("--dst", "prx*,gone", "--batch", "1", "--max-failures", "2"),
        *("--output", "json", *SILENCE),
    )
    document = done.json()
    schema.validate(document)
    assert document["exit_status"] == done.status == 1
    assert document["status"] == "error"
    assert document["missing"] == ["gone", "prx01b"]
    assert document["not_reached"] == ["prx02b"]
    assert [b["nodes"] for b in document["batches"]] == [
        ["prx01a"],
        ["prx01b"],
        ["prx02a"],
    ]
    assert [b["uuid"] for b in document["batches"]] == [
        request["uuid"] for request in run.crowd.requests
    ]
    assert {n["node"]: n["status"] for n in document["nodes"]} == {
        "prx01a": "done",
        "prx02a": "error",
    }
    assert document["nodes"][0]["data"] == "prx01a was here\n"


def test_json_of_nothing(nodes: Nodes, schema: Any) -> None:
    done = nodes()("--batch", "1", "--output", "json", *SILENCE)
    document = done.json()
    schema.validate(document)
    assert document["status"] == "unanswered"
    assert (document["nodes"], document["batches"]) == ([], [])


def test_jsonl(nodes: Nodes, schema: Any) -> None:
    run = nodes(*proxies())
    done = run("--dst", "*", "--batch", "2", "--output", "jsonl")
    *responses, last = done.lines()
    for line in (*responses, last):
        schema.validate(line)
    assert [(r["node"], r["status"]) for r in responses[:2]] == [
        ("prx01a", "accepted"),
        ("prx01a", "done"),
    ]
    assert len(responses) == 8
    assert len(last["batches"]) == 2
    assert "data" not in last["nodes"][0]


def test_table_and_gathered_and_label(nodes: Nodes) -> None:
    run = nodes(*proxies(prx02b="error"))
    words = ("--dst", "*", "--batch", "3", "-q")
    done = run(*words, "--output", "table")
    rows = [line.split()[:2] for line in done.out.splitlines()]
    assert rows == [
        ["NODE", "STATUS"],
        ["prx01a", "done"],
        ["prx01b", "done"],
        ["prx02a", "done"],
        ["prx02b", "error"],
    ]
    done = run(*words, "--label")
    assert done.out.splitlines()[0] == "prx01a: prx01a was here"
    for node in run.crowd.nodes:
        node.data = "the same\n"
    done = run(*words, "--output", "gathered")
    assert done.out.startswith("prx01a, prx01b, prx02a (3):\nthe same\n")


def test_terminal_shows_output_with_its_batch(nodes: Nodes) -> None:
    run = nodes(*proxies(prx02b="error"))
    terminal = Terminal(run.words("--dst", "*", "--batch", "2"))
    try:
        terminal.end(1)
    finally:
        terminal.close()
    shown = terminal.text
    assert shown.index("batch 1:") < shown.index("\nprx01a:\nprx01a was here")
    assert shown.index("\nprx01b:\n") < shown.index("batch 2:")
    assert shown.index("batch 2:") < shown.index("\nprx02a:\n")


def test_limit(nodes: Nodes) -> None:
    run = nodes(*many(20))
    done = run("--dst", "n*", "--limit", "5")
    assert done.status == 0
    assert len(run.crowd.ran) == 5
    assert len(run.crowd.requests) == 1
    chosen = ", ".join(run.crowd.ran)
    assert done.err == f"ngcp-invoke-task: chosen at random: {chosen}\n"
    done = run("--dst", "n*", "--limit", "5", "--batch", "2", "-q")
    assert len(run.crowd.requests) == 4
    assert len(set(run.crowd.ran[5:])) == 5


def test_limit_alone_asks_all_that_are_chosen(nodes: Nodes) -> None:
    """One failure is no reason to leave out others: it is one request."""
    run = nodes(*proxies(prx01a="error"))
    done = run("--dst", "prx*,gone", "--limit", "9", *SILENCE)
    assert len(run.crowd.ran) == 4
    assert done.status == 1
    assert "gone: no answer" in done.err


def test_options_follow_each_name(nodes: Nodes) -> None:
    run = nodes(
        Played("db01a", roles=("db",)),
        Played("db01b", roles=("db",), state="standby"),
        Played("lb01a", roles=("lb",)),
    )
    done = run("--dst", "*|state=active;role=db,lb01a", "--batch", "9")
    assert done.status == 0
    assert run.crowd.requests[0]["dst"] == ("db01a|state=active;role=db,lb01a")


def test_uuid_of_each_request_with_verbose(nodes: Nodes) -> None:
    run = nodes(*proxies())
    done = run("--dst", "*", "--batch", "2", "-v")
    for request in run.crowd.requests:
        assert f"request {request['uuid']}\n" in done.err
    assert done.err.count(": done after ") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", ["text", "json"])
def test_signal_stops_before_the_next_batch(
    nodes: Nodes, schema: Any, number: int, form: str
) -> None:
    run = nodes(*proxies(prx01b="never"))
    with begun(run, "--output", form) as process:
        said = read_until(process, b"prx01b: accepted")
        process.send_signal(number)
        out, rest = process.communicate(timeout=WITHIN)
    said += rest.decode()
    assert process.returncode == -number
    assert "still running or queued: prx01b\n" in said
    uuid = run.crowd.requests[1]["uuid"]
    assert f"--cancel {uuid}" in said
    assert said.endswith("not reached: prx02a, prx02b\n")
    assert run.crowd.ran == ["prx01a", "prx01b"]
    if form == "json":
        document = json.loads(out)
        schema.validate(document)
        assert document["status"] == "interrupted"
        assert document["exit_status"] == 128 + number
        assert document["not_reached"] == ["prx02a", "prx02b"]
    else:
        assert out == b"prx01a was here\n"


def test_reader_that_goes_away_stops_the_rest(nodes: Nodes) -> None:
    run = nodes(*proxies(prx01b="never"))
    with begun(run) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        err = process.stderr.read()
        assert process.wait(WITHIN) == 128 + signal.SIGPIPE
    assert b"not reached: " in err
    assert err.endswith(b"prx02a, prx02b\n")
    assert "prx02a" not in run.crowd.ran


def test_connection_that_is_lost(
    nodes: Nodes, server: RedisServer, schema: Any
) -> None:
    run = nodes(*proxies(prx01b="never"))
    with begun(run, "--output", "json") as process:
        read_until(process, b"prx01b: accepted")
        with server.connect() as connection:
            newest = max(
                int(one["id"])
                for one in connection.client_list()
                if one["sub"] == "1"
            )
            connection.client_kill_filter(_id=newest)
        out, err = process.communicate(timeout=WITHIN)
    assert process.returncode == 69
    assert b"still running or queued: prx01b\n" in err
    assert err.endswith(b"not reached: prx02a, prx02b\n")
    document = json.loads(out)
    schema.validate(document)
    assert document["status"] == "lost"


@contextlib.contextmanager
def begun(run: Run, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, which goes through all nodes, one after the other."""
    with subprocess.Popen(
        run.words("--dst", "*", "--batch", "1", "-v", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[bytes], text: bytes) -> str:
    """Read lines of standard error, up to one with that text."""
    assert process.stderr
    said = b""
    while text not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said.decode()


def test_pause(nodes: Nodes) -> None:
    run = nodes(*proxies())
    with begun(run, "--pause", f"{2 * WITHIN}") as process:
        assert process.stdout
        assert process.stdout.readline() == b"prx01a was here\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WITHIN)
    assert err.endswith(b"not reached: prx01b, prx02a, prx02b\n")
    assert b"still running" not in err
    assert run.crowd.ran == ["prx01a"]


@pytest.mark.parametrize(
    "words",
    [
        ("--batch", "0"),
        ("--batch", "0%"),
        ("--batch", "101%"),
        ("--batch", "x"),
        ("--batch", "-1"),
        ("--batch", "1", "--max-failures", "-1"),
        ("--batch", "1", "--max-failures", "x"),
        ("--batch", "1", "--pause", "-1"),
        ("--batch", "1", "--pause", "nan"),
        ("--batch", "1", "--pause", "inf"),
        ("--batch", "1", "--expect", "2"),
        ("--batch", "1", "--follow"),
        ("--limit", "0"),
        ("--limit", "x"),
        ("--limit", "2", "--expect", "2"),
        ("--max-failures", "1"),
        ("--max-failures", "0"),
        ("--pause", "1"),
        ("--batch", "1", "--dst", "a,,b"),
        ("--batch", "1", "--nodes"),
    ],
    ids=" ".join,
)
def test_wrong_usage(words: List[str]) -> None:
    task = () if "--nodes" in words else ("reload",)
    url = "redis://127.0.0.1:1"  # is not asked
    done = Invoked(
        subprocess.run(
            command("--url", url, *task, *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=WITHIN,
        )
    )
    assert done.status == 2, done.err
