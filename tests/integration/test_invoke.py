"""ngcp-invoke-task: exit statuses, messages and output forms."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
import uuid
from importlib import resources
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import jsonschema
import pytest
import redis

from tests.crowd import answer
from tests.integration.conftest import ConfigFolder, Scripted
from tests.invoking import (
    Invoked,
    command,
    environment,
    invoke,
    wrapper,
)
from tests.parts import (
    CHANNEL,
    WITHIN,
    Client,
    Daemon,
    RedisServer,
    free_port,
    wait_for,
)

Start = Callable[..., Daemon]

# On a busy machine an agent can take long to answer.
PATIENT = ("--answer-timeout", str(WITHIN))


@pytest.fixture
def nodes(
    folder: Path, server: RedisServer, config: ConfigFolder, start: Start
) -> Path:
    """Three agents, and the configuration folder of the first one.

    Each has the task ``echo``; ``mixed`` differs, and lb01a does not have it.
    """
    for name, mixed in (
        ("prx01a", "echo fine"),
        ("prx01b", "echo so far; echo went wrong >&2; exit 3"),
        ("lb01a", ""),
    ):
        one = ConfigFolder(folder / name, server.port)
        one.agent(node={"name": name})
        one.shell("echo", f"echo {name}")
        if mixed:
            one.shell("mixed", mixed)
        start(config=one)
    return folder / "prx01a"


@pytest.fixture
def one(config: ConfigFolder, start: Start) -> Path:
    """One agent, and its configuration folder."""
    config.shell("echo", 'echo "$NGCP_TASK_DATA"')
    config.shell("slow", "sleep 3")
    config.shell("nasty", r"printf 'bad \033[2J\n' | tee /dev/stderr; exit 1")
    start()
    return config.path


@pytest.fixture(scope="module")
def schema() -> Any:
    file = resources.files("ngcp_task_agent.client") / "output.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text()))


def test_the_call_of_ngcp_vmnotify(
    folder: Path, config: ConfigFolder, start: Start
) -> None:
    config.shell("transcribe_voicemail", 'echo "heard: $NGCP_TASK_DATA"')
    daemon = start()
    path = f"{wrapper(folder / 'bin', config.path)}:{os.environ['PATH']}"
    call = (
        "ngcp-invoke-task --task transcribe_voicemail --dst localhost "
        """--data '{"msgnum":1,"uuid":"7b0d"}' 2>&1 </dev/null"""
    )
    shell = ["sh", "-c", call]
    options: Any = {"env": environment(PATH=path), "timeout": WITHIN}
    done = subprocess.run(shell, stdout=subprocess.PIPE, **options)
    assert done.stdout == b'heard: {"msgnum": 1, "uuid": "7b0d"}\n'
    assert done.returncode == 0
    config.shell("transcribe_voicemail", "echo broken >&2; exit 7")
    daemon.reload()
    done = subprocess.run(shell, stdout=subprocess.PIPE, **options)
    assert done.returncode == 1
    assert b"exit status 7: broken" in done.stdout


def test_a_call_without_faults_loads_little(one: Path) -> None:
    words = command("--config-dir", str(one), "--task", "echo", *PATIENT)
    done = subprocess.run(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(PYTHONPROFILEIMPORTTIME="1"),
        timeout=WITHIN,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines}
    assert "ngcp_task_agent.client.cli.main" in loaded
    # Each takes longer to load than a task to run.
    unneeded = {"argcomplete", "jsonschema", "redis.client", "rich"}
    if redis.__version__.startswith("4."):
        unneeded.add("importlib.metadata")  # newer ones load it themselves
    assert not unneeded & loaded


def test_done(nodes: Path) -> None:
    done = invoke(nodes, "echo", "--dst", "*", "--expect", "3", *PATIENT)
    assert (done.status, done.err) == (0, "")
    assert sorted(done.out.split()) == ["lb01a", "prx01a", "prx01b"]
    # Without the number, it waits briefly for more nodes.
    done = invoke(nodes, "echo", "--dst", "prx*", *PATIENT)
    assert (done.status, done.err) == (0, "")


def test_error(nodes: Path) -> None:
    done = invoke(nodes, "mixed", "--dst", "prx*", "--expect", "2", *PATIENT)
    assert done.status == 1
    assert sorted(done.out.splitlines()) == ["fine", "so far"]
    assert done.err.startswith("ngcp-invoke-task: prx01b: error after ")
    assert done.err.endswith("exit status 3: went wrong\n")


def test_rejected(nodes: Path) -> None:
    done = invoke(nodes, "nope", "--dst", "lb*", "--expect", "1", *PATIENT)
    assert (done.status, done.out) == (3, "")
    assert done.err == (
        "ngcp-invoke-task: lb01a: rejected: unknown task 'nope'\n"
    )
    # One done does not make up for one rejected.
    some = invoke(
        nodes, "mixed", "--dst", "prx01a,lb01a", "--expect", "2", *PATIENT
    )
    assert (some.status, some.out) == (3, "fine\n")


def test_no_answer(one: Path) -> None:
    done = invoke(one, "echo", "--dst", "x", "--answer-timeout", "0.3")
    assert (done.status, done.out) == (4, "")
    assert "no node answered within" in done.err
    done = invoke(one, "echo", "--dst", "x", "--timeout", "0.3")
    assert done.status == 4


def test_no_answer_of_those_expected(one: Path) -> None:
    done = invoke(
        one,
        *("echo", "--dst", "x", "--expect", "2"),
        *("--timeout", "0.3", "--output", "json"),
    )
    assert done.status == 4
    assert done.json()["status"] == "unanswered"


def test_range_of_numbers_is_explained_and_sent(nodes: Path) -> None:
    arguments = ("echo", "--dst", "prx0[1-10]a", "--expect", "1", *PATIENT)
    done = invoke(nodes, *arguments)
    assert (done.status, done.out) == (0, "prx01a\n")
    assert done.err == (
        "ngcp-invoke-task: dst: [1-10] matches one character, not a number "
        "from 1 to 10: list the names, separated by commas\n"
    )
    assert invoke(nodes, *arguments, "-q").err == ""


def test_node_that_never_ends(one: Path) -> None:
    done = invoke(one, "slow", "--dst", "sp1", "--timeout", "2")
    assert (done.status, done.out) == (5, "")
    assert "accepted but not ended after" in done.err
    assert done.err.endswith(": sp1\n")


def test_fewer_nodes_than_expected(nodes: Path) -> None:
    done = invoke(
        nodes, "echo", "--dst", "*", "--expect", "4", "--timeout", "6"
    )
    assert done.status == 5
    assert len(done.out.split()) == 3
    assert "only 3 of the 4 expected" in done.err


def test_more_nodes_than_expected(nodes: Path) -> None:
    done = invoke(nodes, "echo", "--dst", "*", "--expect", "1", *PATIENT)
    assert done.status == 0
    assert len(done.out.split()) >= 1


def test_node_that_accepts_and_dies(
    config: ConfigFolder, start: Start, wait_for_slow: Callable[[], None]
) -> None:
    daemon = start()
    arguments = ("--task", "slow", "--config-dir", str(config.path))
    with subprocess.Popen(
        command(*arguments, "--dst", "sp1", "--timeout", "6", "-v"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        # Do not read ahead of a line, so that communicate() gets the rest.
        bufsize=0,
    ) as process:
        assert process.stderr
        err = b""
        # The agent logs an acceptance before it publishes it.
        while b"sp1: accepted after" not in err:
            line = process.stderr.readline()
            assert line, err
            err += line
        wait_for_slow()
        daemon.stop(signal.SIGKILL)
        err += process.communicate(timeout=WITHIN)[1]
    assert process.returncode == 5
    assert b"accepted but not ended" in err
    assert err.endswith(b": sp1\n")


WRONG: List[Any] = [
    (["--task", "echo", "--output", "xml"], "invalid choice"),
    (["--task", ""], "task must be a string of 1 to 128 characters"),
    (["--task", "echo", "--dst", "a,,b"], "target 2"),
    (["--task", "echo", "--data", "{"], "--data is not JSON"),
    (["--task", "echo", "--data", "@/no/such"], "No such file"),
    (["--task", "echo", "--backend", "nope"], "there is no backend 'nope'"),
    (["--task", "echo", "--channel", ""], "channel must be a string of 1 to"),
    (["--task", "echo", "--channel", "\udcff"], "channel must be a string"),
    (["--task", "echo", "--url", "http://x"], "must begin with redis://"),
    (
        ["--task", "echo", "--url", "redis://:its-pw@h:x"],
        "not a usable URL",
    ),
]


@pytest.mark.parametrize(("arguments", "reason"), WRONG)
def test_wrong_usage(arguments: List[str], reason: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    done = invoke(folder / "empty", *arguments[1:])
    assert (done.status, done.out) == (2, "")
    assert reason in done.err
    assert "its-pw" not in done.err


def test_no_redis(config: ConfigFolder, server: RedisServer) -> None:
    server.kill()
    done = invoke(config.path, "echo", "--output", "json")
    assert (done.status, done.out) == (69, "")
    (line,) = done.err.splitlines()
    where = f"ngcp-invoke-task: Redis at 127.0.0.1:{server.port} "
    assert line.startswith(where)
    assert line.endswith(" be reached: Connection refused")


def test_wrong_port(folder: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    done = invoke(None, "echo", "--url", url)
    assert done.status == 69
    assert "Connection refused" in done.err


def test_wrong_password(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = folder / "secret"
    secret.mkdir()
    server = RedisServer(secret, "--requirepass", "right")
    server.start()
    url = f"redis://:wrong@127.0.0.1:{server.port}"
    bare = f"redis://127.0.0.1:{server.port}"
    quick = ("--answer-timeout", "0.2")
    try:
        wrong = invoke(None, "echo", "--url", url, "-v")
        none = invoke(None, "echo", "--url", bare)
        right = invoke(None, "x", "--url", url.replace("wrong", "right"))
        monkeypatch.setenv("REDISCLI_AUTH", "right")
        env = invoke(None, "x", "--url", bare, *quick, "-v")
        monkeypatch.setenv("REDISCLI_AUTH", "wrong")
        wrong_env = invoke(None, "x", "--url", bare, *quick, "-v")
    finally:
        server.stop()
    assert (wrong.status, none.status, right.status) == (69, 69, 4)
    assert (env.status, wrong_env.status) == (4, 69)
    for refused in (wrong, none, wrong_env):
        assert "refuses the login: " in refused.err
        assert "reached" not in refused.err
    for one in (wrong, none, right, env, wrong_env):
        assert "wrong" not in one.err
        assert "right" not in one.err
    assert "password" in wrong.err
    assert "uthentication required; give " in none.err
    assert "REDISCLI_AUTH" in none.err
    assert "REDISCLI_AUTH" in env.err


@pytest.fixture
def tls(certificate: Path) -> Iterator[int]:
    """A server with TLS, and an agent on its other port; the TLS port."""
    (certificate / "redis").mkdir()
    port = free_port()
    server = RedisServer(
        certificate / "redis",
        *("--tls-port", str(port), "--tls-auth-clients", "optional"),
        *("--tls-cert-file", str(certificate / "server.pem")),
        *("--tls-key-file", str(certificate / "server.key")),
        *("--tls-ca-cert-file", str(certificate / "ca.pem")),
    )
    server.start()
    agent = Scripted(server, lambda r: [answer(r, "n1", "done", data="x\n")])
    wait_for(lambda: server.subscribers(CHANNEL))
    yield port
    agent.stop()
    server.stop()


def test_tls(tls: int, certificate: Path) -> None:
    ca, pem, key = (
        certificate / name for name in ("ca.pem", "server.pem", "server.key")
    )
    config = ConfigFolder(certificate / "config", tls)
    config.backend(host="localhost", tls={"ca": str(ca)})
    arguments = ("--dst", "*", "--expect", "1", *PATIENT)
    done = invoke(config.path, "t", *arguments)
    assert (done.status, done.out, done.err) == (0, "x\n", "")
    for more in ("", f"&cert={pem}&key={key}"):
        url = f"rediss://localhost:{tls}?ca={ca}{more}"
        done = invoke(None, "t", "--url", url, *arguments)
        assert (done.status, done.out, done.err) == (0, "x\n", "")


def test_untrusted_tls(tls: int, certificate: Path) -> None:
    ca, other = certificate / "ca.pem", certificate / "other.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-subj", "/CN=ca", "-keyout", "other.key", "-out", other.name),
        ],
        cwd=certificate,
        check=True,
        capture_output=True,
    )
    config = ConfigFolder(certificate / "config", tls)
    config.backend(host="localhost", tls={"ca": str(other)})
    for done in (
        # A wrong CA, on either side; none; a wrong name; no TLS; no file.
        invoke(config.path, "t"),
        invoke(None, "t", "--url", f"rediss://localhost:{tls}?ca={other}"),
        invoke(None, "t", "--url", f"rediss://localhost:{tls}"),
        invoke(None, "t", "--url", f"rediss://127.0.0.1:{tls}?ca={ca}"),
    ):
        assert (done.status, done.out) == (69, "")
        assert "be reached: its certificate is not valid" in done.err
        assert len(done.err.splitlines()) == 1
    plain = invoke(None, "t", "--url", f"redis://localhost:{tls}")
    absent = invoke(None, "t", "--url", f"rediss://localhost:{tls}?ca=/no")
    for done in (plain, absent):
        assert (done.status, done.out) == (69, "")
        assert len(done.err.splitlines()) == 1
    assert "No such file or directory (/no)" in absent.err


def test_redis_dies_during_a_call(
    one: Path, server: RedisServer, schema: Any
) -> None:
    process = subprocess.Popen(
        [
            *command("--config-dir", str(one), "--task", "slow"),
            *("--dst", "sp1", "--output", "json", "-v"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr
    seen = b""
    while b"accepted after" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    server.kill()
    out, err = process.communicate(timeout=WITHIN)
    server.start()
    assert process.returncode == 69
    assert b"still running or queued: sp1\n" in err
    assert b"to end it: ngcp-invoke-task --cancel " in err
    assert b"is lost: " in err
    document = json.loads(out)
    schema.validate(document)
    assert (document["status"], document["exit_status"]) == ("lost", 69)
    assert document["nodes"][0]["status"] == "accepted"


SLOW_NAMES = """
import runpy, socket, sys, time
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_hanging_name_lookup() -> None:
    python, *words = command("--task", "t", "--url", "redis://some.host", "-v")
    words = [python, "-c", SLOW_NAMES, *words]
    options: Any = {"env": environment(), "stdin": subprocess.DEVNULL}
    done = subprocess.run(
        [*words, "--timeout", "1"],
        capture_output=True,
        timeout=WITHIN,
        **options,
    )
    assert done.returncode == 69
    assert done.stderr.endswith(b"reached: no answer within 1 s\n")
    with subprocess.Popen(words, stderr=subprocess.PIPE, **options) as process:
        try:
            assert process.stderr
            while b"Redis at" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)
            assert process.wait(WITHIN) == -signal.SIGINT
        finally:
            process.kill()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_interrupted(number: int, one: Path, schema: Any) -> None:
    process = subprocess.Popen(
        [
            *command("--config-dir", str(one), "--task", "slow"),
            *("--dst", "sp1", "--output", "jsonl"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout
    first = json.loads(process.stdout.readline())
    assert first["status"] == "accepted"
    process.send_signal(number)
    out, err = process.communicate(timeout=WITHIN)
    assert process.returncode == -number
    document = json.loads(out)
    assert err.decode().splitlines() == [
        "ngcp-invoke-task: interrupted; still running or queued: sp1",
        "ngcp-invoke-task: to end it: ngcp-invoke-task --cancel "
        f"{document['uuid']} --config-dir {one}",
    ]
    schema.validate(document)
    assert document["status"] == "interrupted"
    assert document["exit_status"] == 128 + number


def test_interrupted_before_redis_answers(
    config: ConfigFolder, server: RedisServer
) -> None:
    server.signal(signal.SIGSTOP)
    process = subprocess.Popen(
        command("--config-dir", str(config.path), "--task", "t", "-v"),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr
    seen = b""
    while b"Redis at" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WITHIN)
    assert process.returncode == -signal.SIGINT
    assert b"Traceback" not in err


LATE_SIGNAL = """
import asyncio, os, runpy, signal, sys
remove = asyncio.SelectorEventLoop.remove_signal_handler
def late(self, number):
    if number == signal.SIGINT:
        os.kill(os.getpid(), number)
    return remove(self, number)
asyncio.SelectorEventLoop.remove_signal_handler = late
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_signal_while_the_command_ends(one: Path) -> None:
    python, *words = command("--config-dir", str(one), "echo", *PATIENT)
    done = subprocess.run(
        [python, "-c", LATE_SIGNAL, *words, "--expect", "1"],
        capture_output=True,
        env=environment(),
        timeout=WITHIN,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_data_arrives(one: Path) -> None:
    arguments = ("--dst", "sp1", "--expect", "1", *PATIENT)
    done = invoke(one, "echo", "--data", '{"é": [1, null]}', *arguments)
    assert json.loads(done.out) == {"é": [1, None]}
    file = one / "data.json"
    file.write_text('"from a file"')
    done = invoke(one, "echo", "--data", f"@{file}", *arguments)
    assert done.out == '"from a file"\n'
    with file.open() as stdin:
        done = invoke(one, "echo", "--data", "-", *arguments, stdin=stdin)
    assert done.out == '"from a file"\n'
    assert invoke(one, "echo", *arguments).out == "null\n"


def test_verbose_and_quiet(one: Path) -> None:
    arguments = ("--dst", "sp1", "--expect", "1", *PATIENT)
    done = invoke(one, "echo", *arguments, "-v")
    assert (done.status, done.out) == (0, "null\n")
    # By which the nodes' journals know the request.
    shown = re.findall(r"^ngcp-invoke-task: request (\S+)$", done.err, re.M)
    assert [str(uuid.UUID(one)) for one in shown] == shown
    assert len(shown) == 1
    for text in (
        "backends/redis.yml: says where Redis is",
        "control channel ngcp-task-agent-redis, as sp1",
        "sp1: accepted after",
        "sp1: done after",
    ):
        assert text in done.err
    done = invoke(one, "nasty", *arguments, "-q")
    assert (done.status, done.err) == (1, "")
    done = invoke(one, "nope", *arguments, "-q")
    assert (done.status, done.err) == (3, "")


def test_messages_cannot_control_a_terminal_but_data_is_unchanged(
    one: Path,
) -> None:
    done = invoke(one, "nasty", "--dst", "sp1", "--expect", "1", *PATIENT)
    assert done.status == 1
    assert done.out == "bad \x1b[2J\n"
    assert "\x1b" not in done.err
    assert r"bad \x1b[2J" in done.err


def test_json_forms(nodes: Path, schema: Any) -> None:
    arguments = ("--dst", "*", "--expect", "3", *PATIENT)
    done = invoke(nodes, "mixed", *arguments, "--output", "json")
    document = done.json()
    schema.validate(document)
    assert done.status == document["exit_status"] == 1
    by_name = {node["node"]: node for node in document["nodes"]}
    assert by_name["prx01a"]["data"] == "fine\n"
    assert by_name["prx01b"]["status"] == "error"
    assert by_name["lb01a"]["status"] == "rejected"
    done = invoke(nodes, "mixed", *arguments, "--output", "jsonl")
    lines = done.lines()
    for line in lines:
        schema.validate(line)
    assert sorted(line["status"] for line in lines[:-1]) == [
        "accepted",
        "accepted",
        "done",
        "error",
        "rejected",
    ]
    assert lines[-1]["status"] == "error"


def test_table(nodes: Path) -> None:
    done = invoke(
        nodes,
        *("mixed", "--dst", "*", "--expect", "3", *PATIENT),
        *("--output", "table"),
    )
    heading, *rows = done.out.splitlines()
    assert heading.startswith("NODE")
    assert sorted(row.split()[:2] for row in rows) == [
        ["lb01a", "rejected"],
        ["prx01a", "done"],
        ["prx01b", "error"],
    ]


def test_json_lines_are_written_at_once(
    folder: Path, config: ConfigFolder, start: Start
) -> None:
    go = folder / "go"
    config.shell("slow", f"until [ -e {go} ]; do sleep 0.05; done; echo x")
    start()
    process = subprocess.Popen(
        [
            *command("--config-dir", str(config.path), "--task", "slow"),
            *("--dst", "sp1", "--output", "jsonl"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout
    assert json.loads(process.stdout.readline())["status"] == "accepted"
    go.touch()
    assert json.loads(process.stdout.readline())["data"] == "x\n"
    process.communicate(timeout=WITHIN)
    assert process.returncode == 0


def test_reader_that_stops_early(config: ConfigFolder, start: Start) -> None:
    config.shell("much", "seq 100000")
    start()
    process = subprocess.Popen(
        [
            *command("--config-dir", str(config.path), "--task", "much"),
            *("--dst", "sp1", "--expect", "1"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(WITHIN) == 128 + signal.SIGPIPE
    assert err == b""


def asking(server: RedisServer, *arguments: str) -> List[str]:
    """Return the command line of a request to all nodes."""
    url = f"redis://127.0.0.1:{server.port}"
    return command("--task", "t", "--dst", "*", "--url", url, *arguments)


def much(request: Dict[str, Any]) -> Iterator[Any]:
    """Answer with more than a pipe holds, and then once more."""
    yield answer(request, "n1", "accepted")
    yield answer(request, "n2", "accepted")
    for number in range(1, 11):
        yield answer(
            *(request, "n1", "done"),
            uuid="u",
            chunk=number,
            chunks=10,
            data="x" * 30_000,
        )
    yield answer(request, "n2", "done", data="the end\n")


class Unread:
    """The command, with a standard output that is not read yet."""

    def __init__(self, words: List[str]) -> None:
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self.err = b""

    def wait_for_answers(self) -> None:
        assert self.process.stderr
        while b"n2: done" not in self.err:
            line = self.process.stderr.readline()
            assert line, self.err
            self.err += line

    def end(self) -> int:
        """Return the exit status."""
        assert self.process.stderr
        status = self.process.wait(WITHIN)
        self.err += self.process.stderr.read()
        assert b"Traceback" not in self.err
        return status


@pytest.fixture
def unread(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> Iterator[Callable[..., Unread]]:
    """Ask nodes that answer with a lot, and read nothing."""
    scripted(much)
    started: List[Unread] = []

    def unread(*arguments: str) -> Unread:
        words = asking(server, "--expect", "2", "-v", *PATIENT, *arguments)
        started.append(Unread(words))
        return started[-1]

    yield unread
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_answers_are_received_while_the_output_is_not_read(
    unread: Callable[..., Unread],
) -> None:
    asked = unread()
    asked.wait_for_answers()
    # They are written as soon as the output is read.
    out, _ = asked.process.communicate(timeout=WITHIN)
    assert out == b"x" * 300_000 + b"\nthe end\n"
    assert asked.process.returncode == 0


def test_output_is_never_read(unread: Callable[..., Unread]) -> None:
    asked = unread("--timeout", "2")
    assert asked.end() == 74
    assert asked.err.endswith(
        b"ngcp-invoke-task: standard output: not read for 2 s\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("expected", ["2", "3"])  # two have ended
def test_interrupted_while_the_output_is_not_read(
    expected: str, number: int, unread: Callable[..., Unread]
) -> None:
    asked = unread("--expect", expected)
    asked.wait_for_answers()
    asked.process.send_signal(number)
    assert asked.end() == -number


def test_slow_reader_gets_everything(unread: Callable[..., Unread]) -> None:
    asked = unread("--timeout", "2")
    asked.wait_for_answers()
    assert asked.process.stdout
    begin = time.monotonic()
    out = b""
    # Less than the kernel makes room for.
    while time.monotonic() < begin + 4:
        out += os.read(asked.process.stdout.fileno(), 1)
        time.sleep(0.05)
    rest, _ = asked.process.communicate(timeout=WITHIN)
    assert out + rest == b"x" * 300_000 + b"\nthe end\n"
    assert asked.process.returncode == 0


def test_order_of_both_outputs_is_kept(
    server: RedisServer, scripted: Callable[..., Scripted]
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        for number in range(50):
            yield answer(request, f"n{number}", "accepted")
            yield answer(request, f"n{number}", "done", data=f"{number}\n")

    scripted(script)
    done = subprocess.run(
        asking(server, "-v", "--expect", "50", *PATIENT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment(),
        timeout=2 * WITHIN,
        text=True,
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for number in range(50):
        assert lines[lines.index(f"{number}") - 1].startswith(
            f"ngcp-invoke-task: n{number}: done"
        )


def wrong_refs(request: Dict[str, Any]) -> Iterator[Any]:
    stranger = {**request, "uuid": str(uuid.uuid4())}
    while True:
        yield answer(stranger, "n1", "done", data="x")


def garbage(request: Dict[str, Any]) -> Iterator[Any]:
    deep = b"[" * 900 + b"]" * 900
    odd = json.dumps(answer(request, "n1", "done", data=[1], ref="x")).encode()
    while True:
        yield from (
            b"",
            b"{",
            b"null",
            b"\xff\xfe",
            b"[" * 100_000,
            b"9" * 9999,
        )
        yield answer(request, "", "done")
        yield answer(request, "n1", "well")
        yield answer(request, "n1", ["done"])
        yield answer(request, "n1", "done", chunk=1, chunks=10**9)
        yield odd.replace(b"[1]", deep)


def nodes_without_end(request: Dict[str, Any]) -> Iterator[Any]:
    for number in itertools.count():
        yield answer(request, f"n{number}", "accepted")


def chunks_without_end(request: Dict[str, Any]) -> Iterator[Any]:
    for number in itertools.count():
        yield answer(
            *(request, f"n{number}", "done"),
            uuid="u" * 20_000,
            chunk=1,
            chunks=2,
            data="x",
        )
        yield answer(request, f"m{number}", "error")


def huge_reasons(request: Dict[str, Any]) -> Iterator[Any]:
    for number in itertools.count():
        yield answer(
            *(request, f"n{number}", "error"),
            reason="\x1b" * 25_000,
            data="y" * 500,
        )


def large_messages(request: Dict[str, Any]) -> Iterator[Any]:
    while True:
        yield b"x" * 1_000_000
        yield answer(request, "n1", "done", ref="x", data="x" * 1_000_000)


@pytest.mark.parametrize(
    "script",
    [
        wrong_refs,
        garbage,
        nodes_without_end,
        chunks_without_end,
        huge_reasons,
        large_messages,
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_flood_of_messages(
    script: Any,
    form: str,
    server: RedisServer,
    scripted: Callable[..., Scripted],
) -> None:
    # By default Redis soon drops a subscriber slower than its publishers.
    admin = server.connect()
    admin.config_set("client-output-buffer-limit", "pubsub 200mb 0 0")
    admin.connection_pool.disconnect()
    scripted(script)
    done = Invoked(
        subprocess.run(
            # Whatever it keeps, it needs less than a gigabyte.
            [
                *("prlimit", f"--as={1 << 30}"),
                *asking(server, "--timeout", "3", "--output", form),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=WITHIN,
        )
    )
    assert done.status in (1, 4, 5, 69)
    if done.status == 69:
        assert "lost" in done.err
    if form == "json":
        assert done.json()["exit_status"] == done.status


@pytest.mark.parametrize("form", ["text", "jsonl"])
@pytest.mark.parametrize("is_full", [True, False])
def test_nodes_still_running_when_the_output_breaks_are_named(
    is_full: bool,
    form: str,
    server: RedisServer,
    scripted: Callable[..., Scripted],
) -> None:
    def script(request: Dict[str, Any]) -> Iterator[Any]:
        for node in ("n1", "n2"):
            yield answer(request, node, "accepted")
        yield answer(request, "n1", "done", data="x\n")

    scripted(script)
    reader, out = os.pipe()
    os.close(reader)
    if is_full:
        os.close(out)
        out = os.open("/dev/full", os.O_WRONLY)
    try:
        done = subprocess.run(
            asking(server, *PATIENT, "--output", form),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=2 * WITHIN,
        )
    finally:
        os.close(out)
    assert done.returncode == (74 if is_full else 141)
    first, cancel, *more = done.stderr.decode().splitlines()
    assert cancel.startswith("ngcp-invoke-task: to end it: ngcp-invoke-task ")
    assert first.startswith("ngcp-invoke-task: still running or queued: ")
    # With lines, it breaks at the first, before the others may have arrived.
    assert first.endswith(" n2" if form == "text" else ("n1", "n2"))
    assert len(more) == is_full


def test_output_that_cannot_be_written(one: Path) -> None:
    arguments = ("--dst", "sp1", "--expect", "1", *PATIENT)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("--config-dir", str(one), "--task", "echo", *arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=WITHIN,
        )
    assert done.returncode == 74
    assert done.stderr == (
        b"ngcp-invoke-task: standard output: No space left on device\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(closed: str, one: Path) -> None:
    arguments = ("--dst", "sp1", "--expect", "1", *PATIENT)
    words = command("--config-dir", str(one), "--task", "echo", *arguments)
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words],
        capture_output=True,
        env=environment(),
        timeout=WITHIN,
    )
    assert b"Traceback" not in done.stderr
    if ">&-" in closed.split():
        assert done.returncode == 74
    else:
        assert (done.returncode, done.stdout) == (0, b"null\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--bad 2>&-", 2),
        ("--bad <&- >&- 2>&-", 2),
        ("--bad 2>/dev/full", 2),
        ("--bad 2>&9", 2),
        ("--help >&-", 74),
        ("--help >/dev/full", 74),
        ("--help >/dev/full 2>&1", 74),
        ("--version >/dev/full", 74),
        ("--help >&9", 141),
        ("--help", 0),
    ],
)
def test_usage_and_help_that_cannot_be_written(
    words: str, status: int, unbuffered: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # of what is written to 9
    try:
        done = subprocess.run(
            [
                "bash",
                "-c",
                f'exec 9>&{writer}; "$@" {words}',
                "bash",
                *command(),
            ],
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            timeout=WITHIN,
        )
    finally:
        os.close(writer)
    assert done.returncode == status
    told = done.stderr.decode()
    if status == 74 and "2>" not in words:
        assert told.startswith("ngcp-invoke-task: standard output: ")
        assert len(told.splitlines()) == 1
    else:
        assert told == ""
    assert done.stdout.startswith(b"usage: ") is (status == 0)


def test_url_and_channel(
    server: RedisServer, start: Start, config: ConfigFolder
) -> None:
    config.shell("echo", "echo here")
    config.shell("there", "echo there", channel="elsewhere")
    start()
    arguments = ("--dst", "sp1", "--expect", "1", *PATIENT)
    # The configuration knows the channel,
    done = invoke(config.path, "there", *arguments)
    assert (done.status, done.out) == (0, "there\n")
    # or the command line does,
    done = invoke(
        None,
        *("there", "--url", f"redis://127.0.0.1:{server.port}/9"),
        *("--channel", "elsewhere", *arguments),
    )
    assert (done.status, done.out) == (0, "there\n")
    # through a unix socket, too.
    done = invoke(None, "echo", "--url", f"unix://{server.socket}", *arguments)
    assert (done.status, done.out) == (0, "here\n")


@pytest.fixture
def unreadable(folder: Path) -> Path:
    """A configuration that the user ``nobody`` cannot read."""
    config = ConfigFolder(folder / "unreadable", free_port())
    config.path.chmod(0o700)
    folder.chmod(0o755)
    return config.path


def test_task_that_is_not_enabled_here(one: Path) -> None:
    with (one / "tasks/echo.yml").open("a") as file:
        file.write("\nenabled: no\n")
    told = (
        "ngcp-invoke-task: this node's configuration has no usable task "
        f"'echo': {one}/tasks/echo.yml:"
    )
    for options, times in ((), 1), (("-v",), 1), (("-q",), 0):
        done = invoke(one, "echo", "--data", "1", *options, *PATIENT)
        assert (done.status, done.out) == (0, "1\n")
        assert done.err.count(told) == times, done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_user_without_permission_to_read_the_configuration(
    unreadable: Path, server: RedisServer
) -> None:
    words = command("--config-dir", str(unreadable), "--task", "t")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

    def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*nobody, *words, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(PYTHONDONTWRITEBYTECODE="1"),
            timeout=WITHIN,
            text=True,
        )

    if as_nobody("--version").returncode != 0:
        pytest.skip("other users may not read this Python or these files")
    url = ("--url", f"redis://127.0.0.1:{server.port}")
    for arguments in ((), ("-v",), ("--backend", "redis"), url):
        done = as_nobody(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert str(unreadable) in line
        assert "Permission denied; use sudo, or give both --url and" in line
    done = as_nobody(*url, "--channel", "c", "--answer-timeout", "0.1")
    assert done.returncode == 4, done.stderr


def test_one_request_is_sent(
    one: Path, server: RedisServer, connect: Callable[..., Client]
) -> None:
    """The message on the wire is what the protocol requires."""
    listener = connect()
    listener._pubsub.subscribe("ngcp-task-agent-redis")
    wait_for(lambda: server.subscribers("ngcp-task-agent-redis") == 2)
    invoke(one, "echo", "--data", "[1]", "--dst", "sp1", *PATIENT)
    request = listener.next()
    assert request["task"] == "echo"
    assert (request["src"], request["dst"]) == ("sp1", "sp1")
    assert request["data"] == [1]
    assert request["options"]["feedback_channel"]
    assert listener.silent()
