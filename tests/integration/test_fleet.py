"""ngcp-invoke-task and a fleet of twelve agents."""

from __future__ import annotations

import json
import re
import signal
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Iterator, List

import jsonschema
import pytest

from ngcp_task_agent import __version__
from tests.conftest import child
from tests.integration.fleet import NAMES, PROPER, Fleet, finish
from tests.invoking import Invoked
from tests.parts import CHANNEL, is_running, wait_for

# With --dist loadgroup, one process has all of them, and starts one fleet.
pytestmark = pytest.mark.xdist_group("fleet")

NO_UUID = "00000000-0000-4000-8000-000000000000"
SILENCE = ("--answer-timeout", "2")


@pytest.fixture(autouse=True)
def _leaves_nothing() -> None:
    """The fleet outlives a test: it checks at its end."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        fleet = Fleet(Path(folder))
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.stop()
    assert child() is None


@pytest.fixture(scope="module")
def schema() -> Any:
    file = resources.files("ngcp_task_agent.client") / "output.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


def column(done: Invoked, number: int = 0) -> List[str]:
    """Return a column of a table, without its heading."""
    return [line.split()[number] for line in done.out.splitlines()[1:]]


# Who is there


def test_nodes(fleet: Fleet) -> None:
    done = fleet.invoke("--nodes", "--dst", PROPER)
    assert (done.status, done.err) == (0, "")
    assert column(done) == NAMES
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert re.match(
        rf"prx01b +proxy +standby +online +{re.escape(__version__)} ",
        rows["prx01b"],
    )
    assert "unknown task 'ngcp.ping'" in rows["old01"]
    assert __version__ not in rows["old01"]


def test_all_nodes_with_two_of_one_name(fleet: Fleet) -> None:
    done = fleet.invoke("--nodes", *SILENCE)
    assert done.status == 1
    assert "several nodes call themselves 'twin01'" in done.err
    assert set(column(done)) == {*NAMES, "twin01"}


@pytest.mark.parametrize(
    ("dst", "expected"),
    [
        ("*|role=proxy", "prx01a prx01b prx02a"),
        ("*|state=active;role=proxy", "prx01a prx02a"),
        ("*|role=proxy+lb;state=standby", "lb01b prx01b"),
        ("*|site=graz", "prx02a"),
        ("PRX01?,old*", "old01 prx01a prx01b"),
        ("db.example.org", "db01a"),
        ("local|role=db", "db01a db01b"),
    ],
)
def test_names_alone(fleet: Fleet, dst: str, expected: str) -> None:
    done = fleet.invoke("--nodes", "-q", "--dst", dst)
    assert (done.status, done.err) == (0, "")
    assert done.out.split() == expected.split()


def test_nodes_as_json(fleet: Fleet, schema: Any) -> None:
    words = ("--nodes", "--dst", "prx02a,old01,deaf01", *SILENCE)
    done = fleet.invoke(*words, "--output", "json")
    document = done.json()
    schema.validate(document)
    assert done.status == document["exit_status"] == 5
    assert document["missing"] == ["deaf01"]
    old, new = document["nodes"]
    assert (old["name"], old["version"]) == ("old01", "")
    assert (new["name"], new["version"]) == ("prx02a", __version__)
    assert new["labels"] == {"site": "graz"}
    for line in fleet.invoke(*words, "--output", "jsonl").lines():
        schema.validate(line)


def test_nobody(fleet: Fleet) -> None:
    for words in (
        ["--nodes"],
        ["--tasks"],
        ["--jobs"],
        ["--cancel", NO_UUID],
        ["name"],
        ["name", "--batch", "1"],
        ["name", "--limit", "1"],
    ):
        done = fleet.invoke(*words, "--dst", "x*", "--answer-timeout", "0.5")
        assert (done.status, done.out) == (4, ""), words


# Who did not answer


def test_deaf_node_is_missing(fleet: Fleet, schema: Any) -> None:
    words = ("name", "--dst", "prx01a,DEAF01", *SILENCE)
    done = fleet.invoke(*words)
    assert (done.status, done.out) == (5, "prx01a\n")
    assert done.err == "ngcp-invoke-task: DEAF01: no answer\n"
    document = fleet.invoke(*words, "--output", "json").json()
    schema.validate(document)
    assert document["missing"] == ["DEAF01"]
    # Nobody at all.
    assert fleet.invoke("name", "--dst", "deaf01", *SILENCE).status == 4


def test_node_may_answer_by_another_of_its_names(fleet: Fleet) -> None:
    done = fleet.invoke("name", "--dst", "DB.example.org,prx01a", *SILENCE)
    assert (done.status, done.err) == (0, "")
    assert sorted(done.out.split()) == ["db01a", "prx01a"]


def test_expect(fleet: Fleet) -> None:
    words = ("name", "--dst", "prx*", *SILENCE)
    assert fleet.invoke(*words, "--expect", "3").status == 0
    done = fleet.invoke(*words, "--expect", "4")
    assert done.status == 5
    assert "only 3 of the 4 expected" in done.err


def test_slow_node_is_waited_for(fleet: Fleet) -> None:
    done = fleet.invoke("late", "--dst", "slow01,prx01a")
    assert (done.status, done.out) == (0, "late\n")
    done = fleet.invoke("late", "--dst", "slow01", "--timeout", "0.5")
    assert done.status == 5


# Whose output is it


def test_two_nodes_of_one_name(fleet: Fleet, schema: Any) -> None:
    done = fleet.invoke("name", "--dst", "twin01", "--output", "json")
    assert done.status == 1
    schema.validate(done.json())
    assert [node["doubled"] for node in done.json()["nodes"]] == [True]
    assert "several nodes call themselves 'twin01'" in done.err


def test_label_and_gathered(fleet: Fleet) -> None:
    done = fleet.invoke("role", "--dst", "prx*", "--label")
    assert sorted(done.out.splitlines()) == [
        "prx01a: proxy",
        "prx01b: proxy",
        "prx02a: proxy",
    ]
    done = fleet.invoke(
        "role", "--dst", "prx*,lb*,deaf01", "--output", "gathered", *SILENCE
    )
    assert done.status == 5
    assert done.out == (
        "prx01a, prx01b, prx02a (3):\nproxy\n\n"
        "lb01a, lb01b (2):\nlb\n\n"
        "deaf01: no answer\n"
    )


def test_error_and_rejection(fleet: Fleet) -> None:
    done = fleet.invoke("works", "--dst", "lb*", "--expect", "2")
    assert (done.status, done.out) == (1, "fine\n")
    assert "lb01b: error after " in done.err
    done = fleet.invoke("balance", "--dst", "lb01a")
    assert (done.status, done.out) == (3, "")
    done = fleet.invoke("balance", "--dst", "prx01a")
    assert done.status == 3
    assert "unknown task 'balance'" in done.err


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_live_output(
    fleet: Fleet, schema: Any, tmp_path: Path, form: str
) -> None:
    """Lines are there before the task has ended."""
    nodes = ("lb01a", "prx01a")
    gates = [fleet.folder / name / "go" for name in nodes]
    words = ("--dst", ",".join(nodes), "--follow", "--output", form)
    file = tmp_path / "out"
    with file.open("wb") as out:
        process = fleet.begin("lines", *words, out=out)
    try:
        wait_for(lambda: file.read_bytes().count(b"two") == 2)
        early = file.read_text()
    finally:
        for gate in gates:
            gate.touch()
        done = finish(process)
        for gate in gates:
            gate.unlink()
    assert (done.status, done.err) == (0, "")
    assert "three" not in early
    if form == "text":
        assert sorted(file.read_text().splitlines()) == [
            f"{name}: {line}"
            for name in nodes
            for line in ("one", "three", "two")
        ]
    else:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            schema.validate(line)
        live = [line["text"] for line in lines if "stream" in line]
        assert sorted(live) == ["one", "one", "three", "three", "two", "two"]


# What can run, what runs, and stopping it


def test_tasks(fleet: Fleet, schema: Any) -> None:
    done = fleet.invoke("--tasks", "--dst", "lb*,prx*")
    assert (done.status, done.err) == (0, "")
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert "Who is it?" in rows["name"]
    assert "lb01a, lb01b" in rows["balance"]
    assert "prx" not in rows["balance"]
    assert not [name for name in rows if name.startswith("ngcp.")]
    done = fleet.invoke("--tasks", "--dst", "lb01a", "--output", "json")
    schema.validate(done.json())
    tasks = {task["name"]: task for task in done.json()["tasks"]}
    assert tasks["words"]["extra_args"] is True
    assert tasks["name"]["timeout"] == 300
    done = fleet.invoke("--tasks", "--dst", "lb01a,old01")
    assert done.status == 3
    assert "old01: rejected: unknown task" in done.err


def test_cancel_what_ignores_term(fleet: Fleet, schema: Any) -> None:
    words = ("--dst", "prx01a,prx02a")
    with fleet.begin("stubborn", *words, "-v") as process:
        assert process.stderr
        said = b""
        while said.count(b": accepted") < 2:
            said += process.stderr.readline()
        pids = [
            wait_for(lambda file=fleet.folder / name / "pid": numbers(file))
            for name in ("prx01a", "prx02a")
        ]
        jobs = fleet.invoke("--jobs", "--output", "json", *words).json()
        schema.validate(jobs)
        assert sorted(job["node"] for job in jobs["jobs"]) == [
            "prx01a",
            "prx02a",
        ]
        (uuid,) = {job["uuid"] for job in jobs["jobs"]}
        assert uuid in said.decode()
        shown = fleet.invoke("--jobs", *words)
        assert column(shown, 2) == ["stubborn"] * 2
        assert column(shown, 3) == ["desk"] * 2

        done = fleet.invoke("--cancel", uuid, "--dst", "prx*")
        assert (done.status, done.err) == (0, "")
        assert done.out == "prx01a: cancelled\nprx02a: cancelled\n"
        ended = finish(process)
    assert ended.status == 1
    assert ended.err.count("cancelled by desk") == 2
    for (pid,) in pids:
        wait_for(lambda pid=pid: not is_running(pid))
    assert fleet.invoke("--jobs", *words).out == ""
    done = fleet.invoke("--cancel", uuid, "--dst", "prx*")
    assert (done.status, done.out) == (1, "")


def numbers(file: Path) -> List[int]:
    return (
        [int(word) for word in file.read_text().split()]
        if (file.exists())
        else []
    )


def test_interrupt_prints_the_line_that_cancels(fleet: Fleet) -> None:
    (fleet.folder / "db01a/pid").unlink(missing_ok=True)
    with fleet.begin("stubborn", "--dst", "db01a", "-v") as process:
        assert process.stderr
        while b": accepted" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        done = finish(process)
    # A shell's loop ends if its command dies of the signal.
    assert done.status == -signal.SIGINT
    assert "interrupted; still running or queued: db01a\n" in done.err
    found = re.search(r"ngcp-invoke-task (--cancel .*)$", done.err, re.M)
    assert found
    cancelled = fleet.invoke(*found[1].split())
    # The others have no such request, and one of the twins says so twice.
    assert "db01a: cancelled\n" in cancelled.out


# Data


def test_data(fleet: Fleet) -> None:
    done = fleet.invoke(
        "words", "--dst", "prx01a", "--data", '{"extra_args": ["a b", "c"]}'
    )
    assert (done.status, done.out) == (0, "a b c\n")
    done = fleet.invoke("data", "--dst", "prx01a", "--data", '{"x":1}')
    assert done.out == '{"x": 1}\n'
    done = fleet.invoke("words", "--dst", "prx01a", "--data", '"bob"', "-v")
    assert done.status == 0
    assert "prx01a: the task could not use --data" in done.err
    done = fleet.invoke("words", "--dst", "prx01a", "--data", '"bob"')
    assert (done.status, done.err) == (0, "")


# A few at a time


def test_rolling(fleet: Fleet) -> None:
    done = fleet.invoke("name", "--dst", PROPER, "--batch", "4")
    assert done.status == 0
    assert sorted(done.out.split()) == NAMES
    assert done.err.count("batch ") == 3


def test_rolling_stops_at_a_failure(fleet: Fleet, schema: Any) -> None:
    words = ("works", "--dst", "prx*", "--batch", "1")
    done = fleet.invoke(*words)
    assert (done.status, done.out) == (1, "fine\n")
    assert done.err.endswith("not reached: prx02a\n")
    done = fleet.invoke(*words, "--max-failures", "1", "--output", "json")
    assert done.status == 1
    schema.validate(done.json())
    assert [n["status"] for n in done.json()["nodes"]] == [
        "done",
        "error",
        "done",
    ]
    # Each node keeps its options: the standby one is not even asked.
    done = fleet.invoke(*words[:2], "prx*|state=active", *words[3:])
    assert (done.status, done.out) == (0, "fine\nfine\n")


def test_rolling_over_missing_and_doubled_nodes(fleet: Fleet) -> None:
    words = ("--batch", "1", *SILENCE)
    done = fleet.invoke("name", "--dst", "deaf01,prx01a", *words)
    assert (done.status, done.out) == (5, "")
    assert "deaf01: no answer" in done.err
    done = fleet.invoke("name", "--dst", "twin01,prx01a", *words)
    assert (done.status, done.out) == (1, "")
    done = fleet.invoke("balance", "--dst", "prx0*", *words)
    assert (done.status, done.out) == (3, "")
    assert done.err.endswith("not reached: prx01b, prx02a\n")


def test_limit(fleet: Fleet) -> None:
    done = fleet.invoke("name", "--dst", "*|role=proxy+lb", "--limit", "2")
    assert done.status == 0
    assert len(set(done.out.split())) == 2
    done = fleet.invoke("name", "--dst", "lb*", "--limit", "9", "-q")
    assert sorted(done.out.split()) == ["lb01a", "lb01b"]


# Where it goes


def test_address(fleet: Fleet) -> None:
    url = f"redis://127.0.0.1:{fleet.server.port}"
    words = ("name", "--dst", "prx01a")
    for more in (
        ["--backend", "redis"],
        ["--channel", CHANNEL],
        ["--url", url],
    ):
        done = fleet.invoke(*words, *more)
        assert (done.status, done.out) == (0, "prx01a\n"), done.err
    nowhere = fleet.invoke(*words, "--channel", "other", *SILENCE)
    assert nowhere.status == 4
    assert fleet.invoke(*words, "--url", "redis://127.0.0.1:1").status == 69
    assert fleet.invoke(*words, "--config-dir", "/nowhere").status == 2


def test_server_that_wants_no_password_is_asked_without(fleet: Fleet) -> None:
    url = f"redis://127.0.0.1:{fleet.server.port}"
    words = ("name", "--dst", "prx01a", "--url", url)
    done = fleet.invoke(*words, REDISCLI_AUTH="not needed")
    assert (done.status, done.out) == (0, "prx01a\n"), done.err


def test_usage(fleet: Fleet) -> None:
    assert fleet.invoke("--version").out.split()[-1] == __version__
    assert "--max-failures" in fleet.invoke("--help").out
    for words in (
        [],
        ["--nodes", "name"],
        ["--nodes", "--tasks"],
        ["--cancel", "x"],
        ["name", "--expect", "x"],
        ["name", "--output", "xml"],
    ):
        assert fleet.invoke(*words).status == 2, words
