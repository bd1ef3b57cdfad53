"""The command broker: its options, its answers, its failures."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.brokers import program as program_module
from ngcp_task_agent.brokers.base import Result
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.brokers.program import split_args
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.logs import journal
from ngcp_task_agent.process import run as process_module
from ngcp_task_agent.process import users
from ngcp_task_agent.process.run import EndCause, Exit
from ngcp_task_agent.process.users import PATH, User, own_user
from tests.parts import ROOT
from tests.unit.fakes import (
    Records,
    has_children,
    needs_root,
    request,
    until,
)

Program = Callable[..., str]
UUID = "cb88ac76-f348-4614-866f-43877b893e7e"

pytestmark = pytest.mark.usefixtures("users_looked_up_each_time")


async def run(data: Any = None, **options: Any) -> Result:
    asked = request(data, uuid=UUID, src="cl\u00efent", dst="*|state=active")
    return as_text(await CommandBroker(options).prepare(asked).run())


def as_text(result: Result) -> Result:
    """The same result, with the output as text, for comparison."""
    data = result.data
    text = data.decode() if isinstance(data, bytes) else data
    return dataclasses.replace(result, data=text)


async def sh(script: str, data: Any = None, **options: Any) -> Result:
    return await run(data, run="sh", args=["-c", script, "sh"], **options)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "KILL_AFTER", 0.1)


async def test_done() -> None:
    result = await run(run="echo", args="a 'b  c'")
    assert result == Result(data="a b  c\n", exit_status=0)


ARGS: List[Any] = [
    pytest.param("-c 2 10.10.10.10", ["-c", "2", "10.10.10.10"], id="words"),
    pytest.param(
        "a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"], id="quotes"
    ),
    pytest.param(
        "$HOME *.c `x` ; #", ["$HOME", "*.c", "`x`", ";", "#"], id="no-shell"
    ),
    pytest.param("", [], id="nothing"),
    pytest.param("''", [""], id="empty-word"),
    pytest.param(["a b", ""], ["a b", ""], id="list"),
]


@pytest.mark.parametrize(("args", "words"), ARGS)
def test_split_args(args: Any, words: List[str]) -> None:
    assert split_args(args) == words


@pytest.mark.parametrize("args", ["it's", '"', "a\\"])
def test_split_args_refuses(args: str) -> None:
    with pytest.raises(ValueError, match="."):
        CommandBroker({"run": "true", "args": args})


EXTRA: List[Any] = [
    pytest.param("a b", ["a", "b"], id="string"),
    pytest.param("  a\tb\n c ", ["a", "b", "c"], id="white-space"),
    pytest.param("'a b' \"c", ["'a", "b'", '"c'], id="quotes-are-letters"),
    pytest.param(["a b", ""], ["a b", ""], id="list"),
    pytest.param([], [], id="empty-list"),
    pytest.param("", [], id="empty-string"),
    pytest.param(None, [], id="null"),
    pytest.param("--help; $(id) *", ["--help;", "$(id)", "*"], id="no-shell"),
    pytest.param("\u20ac", ["\u20ac"], id="not-ascii"),
]


@pytest.mark.parametrize(("extra", "words"), EXTRA)
@pytest.mark.parametrize("form", [dict, json.dumps], ids=["object", "string"])
async def test_extra_args(
    extra: Any, words: List[str], form: Callable[..., Any]
) -> None:
    result = await run(
        form({"extra_args": extra, "other": 1}),
        run="sh",
        args=["-c", 'printf "%s|" "$@"', "sh", "own"],
        extra_args=True,
    )
    assert result.data == "".join(f"{word}|" for word in ["own", *words])


REFUSED: List[Any] = [
    pytest.param(False, "a", "not allowed", id="not-allowed"),
    pytest.param(False, ["a"], "not allowed", id="list-not-allowed"),
    pytest.param(True, 1, "string or a list", id="number"),
    pytest.param(True, {"a": 1}, "string or a list", id="object"),
    pytest.param(True, ["a", 1], "string or a list", id="number-in-list"),
    pytest.param(True, [None], "string or a list", id="null-in-list"),
    pytest.param(True, ["a", "b\0"], "word 2 must not contain NUL", id="nul"),
    pytest.param(True, "\ud800", "surrogate", id="half-a-pair"),
    pytest.param(["[a-z]+"], "a B", "word 2 matches nothing", id="regex"),
    pytest.param(["[a-z]+"], ["ab1"], "word 1 matches", id="regex-in-part"),
    pytest.param(["[a-z]+"], ["ab\n"], "word 1 matches", id="line-feed"),
    pytest.param(["a|b"], "ab", "word 1 matches", id="regex-or"),
    pytest.param([], "a", "not allowed", id="nothing-is-allowed"),
]


@pytest.mark.parametrize(("allowed", "extra", "reason"), REFUSED)
def test_extra_args_refused(allowed: Any, extra: Any, reason: str) -> None:
    broker = CommandBroker({"run": "true", "extra_args": allowed})
    with pytest.raises(Rejected, match=reason) as caught:
        broker.prepare(request({"extra_args": extra}))
    assert str(caught.value).startswith("extra_args")


@pytest.mark.parametrize("extra", [None, "", [], " "])
def test_empty_extra_args_are_always_allowed(extra: Any) -> None:
    broker = CommandBroker({"run": "true"})
    assert broker.prepare(request({"extra_args": extra}))


ALLOWED: List[Any] = [
    pytest.param(["[a-z]+", r"\d+"], "ab 12", id="one-of-several"),
    pytest.param(["--only=[a-z]+"], "--only=abc", id="option"),
    pytest.param(["", "a"], ["", "a"], id="empty-word"),
]


@pytest.mark.parametrize(("allowed", "extra"), ALLOWED)
def test_extra_args_allowed(allowed: List[str], extra: Any) -> None:
    broker = CommandBroker({"run": "true", "extra_args": allowed})
    assert broker.prepare(request({"extra_args": extra}))


async def test_extra_args_are_logged_when_they_are_used(
    journal_records: Records,
) -> None:
    """A request that finds no room leaves no other trace than that."""
    broker = CommandBroker({"run": "true", "extra_args": True})
    work = broker.prepare(request({"extra_args": "a b"}, uuid=UUID))
    assert not list(journal_records)
    await work.run()
    (record,) = journal_records
    assert record.levelname == "DEBUG"
    assert record.getMessage() == f"request {UUID}: extra_args ['a', 'b']"


DATA: List[Any] = [
    None,
    1,
    True,
    "text",
    "[1]",
    "x {",
    "\ufeff{",
    "[NaN]",
    '"{}"',
    [],
    {},
    {"a": [1]},
    ' {"a": 1, "a": 2}\n',
    "\0",
    "\ud800",
]


@pytest.mark.parametrize("data", DATA, ids=range(len(DATA)))
async def test_unexpected_data_is_ignored(data: Any) -> None:
    result = await run(data, run="echo", args="x")
    assert (result.error, result.data) == ("", "x\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "data is not JSON"),
        (" \t\r\n{]", "data is not JSON"),
        ('{"a": 1} {}', "data is not JSON"),
        ('{"a": NaN}', "data is not JSON"),
        ('{"a": -Infinity}', "data is not JSON"),
        ('{"a": 1e999}', "data is not JSON"),
        ('{"a": "\n"}', "data is not JSON"),
        (f'{{"a": {"[" * 100}{"]" * 100}}}', "nested more than 100 levels"),
        ("{" * 50_001, "more than 50000 arrays and objects"),
        (f'{{"a": {"[" * 50_000}}}', "more than 50000 arrays and objects"),
    ],
)
async def test_an_object_in_a_string_obeys_the_rules(
    data: str, reason: str
) -> None:
    with pytest.raises(Rejected, match=reason):
        await run(data, run="cat", stdin="data")


async def test_an_object_in_a_string() -> None:
    result = await run(' {"a": 1, "a": 2}', run="cat", stdin="data")
    assert (result.error, result.data) == ("", '{"a": 2}')


async def test_environment() -> None:
    result = await run({"k": "\u20ac"}, run="env")
    found = dict(line.split("=", 1) for line in result.data.splitlines())
    own = pwd.getpwuid(os.geteuid())
    assert found == {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": own.pw_dir,
        "USER": own.pw_name,
        "LOGNAME": own.pw_name,
        "SHELL": own.pw_shell,
        "NGCP_TASK_NAME": "ping",
        "NGCP_TASK_UUID": UUID,
        "NGCP_TASK_SRC": "cl\u00efent",
        "NGCP_TASK_DST": "*|state=active",
        "NGCP_TASK_DATA": '{"k": "\\u20ac"}',
    }


async def test_data_of_a_string_that_holds_an_object() -> None:
    result = await sh("echo $NGCP_TASK_DATA", '{"msgnum":1}')
    assert json.loads(result.data) == {"msgnum": 1}


async def test_large_data_is_not_in_the_environment() -> None:
    script = 'echo "${NGCP_TASK_DATA-unset}"; wc -c'
    result = await sh(script, "x" * 500_000, stdin="data")
    assert result.data.split() == ["unset", "500002"]


async def test_standard_input() -> None:
    assert (await sh("cat", {"a": 1})).data == ""
    assert (await sh("cat", {"a": 1}, stdin="none")).data == ""
    result = await sh("cat", {"a": ["\u20ac"]}, stdin="data")
    assert json.loads(result.data) == {"a": ["\u20ac"]}
    assert (await sh("cat", None, stdin="data")).data == "null"


# The broker's options, a request's data, and whether that is for nothing.
UNUSED: List[Any] = [
    pytest.param({}, None, False, id="null"),
    pytest.param({}, "bob", True, id="string"),
    pytest.param({}, "", True, id="empty-string"),
    pytest.param({}, False, True, id="false"),
    pytest.param({}, ["bob"], True, id="list"),
    pytest.param({}, {}, False, id="object"),
    pytest.param({}, '{"name": "bob"}', False, id="object-in-a-string"),
    pytest.param({}, {"name": "x" * 70_000}, True, id="large-object"),
    pytest.param({}, {"x": "\u20ac" * 15_000}, True, id="large-if-encoded"),
    pytest.param({"stdin": "data"}, "bob", False, id="standard-input"),
    pytest.param(
        {"stdin": "data"}, {"x": "x" * 70_000}, False, id="large-input"
    ),
    pytest.param({"extra_args": True}, "bob", True, id="no-extra-words"),
    pytest.param(
        {"extra_args": True},
        {"extra_args": "bob", "x": "x" * 70_000},
        False,
        id="extra-words",
    ),
    pytest.param(
        {"extra_args": True},
        {"extra_args": " ", "x": "x" * 70_000},
        True,
        id="large-without-words",
    ),
]


@pytest.mark.parametrize(("options", "data", "unused"), UNUSED)
async def test_data_that_is_for_nothing(
    options: Any, data: Any, unused: bool
) -> None:
    for script in ("exit 0", "exit 1"):
        assert (await sh(script, data, **options)).unused is unused


async def test_a_large_message_without_data() -> None:
    asked = request(x="x" * 70_000)
    work = CommandBroker({"run": "true"}).prepare(asked)
    asked.forget()
    assert not (await work.run()).unused


@pytest.mark.parametrize("log_stderr", [True, False])
async def test_live_output(log_stderr: bool, journal_records: Records) -> None:
    got: List[Tuple[str, bytes]] = []
    script = "echo out; echo err >&2"
    broker = CommandBroker(
        {"run": "sh", "args": ["-c", script], "log_stderr": log_stderr}
    )
    assert broker.has_live_output
    work = broker.prepare(request())
    work.on_output(lambda stream, data: got.append((stream, data)))
    result = await work.run()
    assert result.data == b"out\n"
    assert sorted(got) == [
        ("stderr", b""),
        ("stderr", b"err\n"),
        ("stdout", b""),
        ("stdout", b"out\n"),
    ]
    logged = journal_records.of(journal.TASK_STDERR)
    assert len(logged) == (1 if log_stderr else 0)


async def test_output_that_is_not_utf_8() -> None:
    broker = CommandBroker({"run": "printf", "args": [r"a\377b"]})
    result = await broker.prepare(request()).run()
    assert result.data == b"a\xffb"
    result = await sh(r"printf 'a\377b\n' >&2; exit 1")
    assert result.detail == "a\ufffdb"


async def test_exit_status() -> None:
    script = "echo so far; echo first >&2; echo ' last '>&2; echo >&2; exit 3"
    assert await sh(script) == Result(
        "so far\n", "the command ended with exit status 3", "last", 3
    )


async def test_success_does_not_quote_standard_error() -> None:
    result = await sh("echo warning >&2")
    assert result == Result(exit_status=0)


async def test_standard_error_is_logged_if_asked(
    journal_records: Records,
) -> None:
    script = "echo one >&2; echo out; printf 'tw\\303\\266' >&2; exit 3"
    result = await sh(script, log_stderr=True)
    assert (result.data, result.detail) == ("out\n", "tw\u00f6")
    records = journal_records.of(journal.TASK_STDERR)
    assert [r.NGCP_TASK_STDERR for r in records] == ["one", "tw\u00f6"]
    await sh(script)
    assert len(journal_records.of(journal.TASK_STDERR)) == 2


async def test_standard_error_is_logged_as_it_comes(
    journal_records: Records, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    script = f"echo one >&2; while [ ! -e {seen} ]; do sleep 0.01; done"
    running = asyncio.create_task(sh(script, log_stderr=True))
    await until(lambda: journal_records.of(journal.TASK_STDERR))
    seen.touch()
    assert (await running).error == ""


async def test_standard_error_of_a_command_that_is_cancelled(
    journal_records: Records,
) -> None:
    script = "printf 'one\\ntwo' >&2; exec sleep 600"
    running = asyncio.create_task(sh(script, log_stderr=True))
    await until(lambda: journal_records.of(journal.TASK_STDERR))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    records = journal_records.of(journal.TASK_STDERR)
    assert [r.NGCP_TASK_STDERR for r in records] == ["one", "two"]
    await until(lambda: not has_children())


async def test_killed_by_a_signal() -> None:
    result = await sh("kill -KILL $$")
    assert result.error == "the command was killed by SIGKILL"
    assert result.exit_status is None
    result = await sh("kill -40 $$")
    assert result.error == "the command was killed by signal 40"


async def test_timeout(hurry: None) -> None:
    script = "trap '' TERM; echo begun; while :; do sleep 600; done"
    result = await sh(script, timeout=0.2)
    assert result.error == "the command ran past its timeout of 0.2 s"
    assert result.data == "begun\n"


async def test_no_timeout() -> None:
    assert (await sh("sleep 0.1", timeout=0)).error == ""


@pytest.mark.parametrize("where", ["1", "2"])
async def test_endless_output(where: str, hurry: None) -> None:
    result = await sh(f"cat /dev/zero >&{where}", max_output="64K")
    assert result.error == "the command wrote more than 65536 bytes"
    assert len(result.data) == (65536 if where == "1" else 0)


def test_exit_status_held_by_a_debugger() -> None:
    outcome = Exit(EndCause.EXITED, None, None, b"out", b"")
    result = CommandBroker({"run": "true"}).result(outcome)
    assert result.error == (
        "the command has ended, but a debugger holds its status"
    )


async def test_slightly_too_much_output() -> None:
    result = await run(run="echo", args="12345678", max_output=8)
    assert result.error == "the command wrote more than 8 bytes"
    assert result.data == "12345678"


async def test_missing_program() -> None:
    result = await run(run="no-such-program")
    assert result.error == (
        "the command cannot be started: there is no program "
        f"'no-such-program' in {PATH}"
    )
    result = await run(run="/no/such")
    assert "there is no program '/no/such'" in result.error


async def test_program_that_is_no_longer_executable(
    program: Program,
) -> None:
    path = program("echo x")
    broker = CommandBroker({"run": path})
    assert broker.problems() == {}
    assert (await broker.prepare(request()).run()).data == b"x\n"
    os.chmod(path, 0o644)
    assert broker.problems() == {"run": f"'{path}' is not executable"}
    result = await broker.prepare(request()).run()
    assert f"'{path}' is not executable" in result.error


def test_programs() -> None:
    def user(**options: str) -> Optional[Tuple[str, int]]:
        programs = CommandBroker({"run": "x", **options}).programs()
        found = programs.get("run")
        return (found.run, found.user.uid) if found else None

    assert user() == ("x", os.geteuid())
    assert user(as_user="root") == ("x", 0)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert user(as_user="nobody") == ("x", nobody)
    assert user(as_user="no-such-user") is None


def test_all_problems_at_once() -> None:
    found = CommandBroker({"run": "/no/such", "as_user": "no-such"}).problems()
    assert found == {
        "run": "there is no program '/no/such'",
        "as_user": "there is no user 'no-such'",
    }


def test_path_with_arguments() -> None:
    found = CommandBroker({"run": "/bin/echo hello"}).problems()
    assert found == {
        "run": "there is no program '/bin/echo hello'; its arguments go into "
        "args"
    }


async def test_program_without_its_interpreter(program: Program) -> None:
    result = await run(run=program("#!/no/such\n"))
    assert "or the interpreter it names, does not exist" in result.error


async def test_file_that_is_not_a_program(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("echo no shebang\n")
    path.chmod(0o755)
    result = await run(run=str(path))
    assert "not a program that the system can execute" in result.error
    assert result.error.endswith("; a script needs #! in its first line")


async def test_argument_too_long_for_the_system() -> None:
    data = {"extra_args": ["x" * 131072]}
    result = await run(data, run="true", extra_args=True)
    assert "are too long for the system" in result.error


@pytest.mark.parametrize("extra", ["x " * 4097, ["x" * 131073]])
def test_too_many_extra_args(extra: Any) -> None:
    broker = CommandBroker({"run": "true", "extra_args": True})
    with pytest.raises(Rejected, match="more than 4096 words or 131072"):
        broker.prepare(request({"extra_args": extra}))


async def test_unknown_user() -> None:
    broker = CommandBroker({"run": "true", "as_user": "no-such-user"})
    assert broker.problems() == {"as_user": "there is no user 'no-such-user'"}
    result = await broker.prepare(request()).run()
    assert result.error == (
        "the command cannot be started: there is no user 'no-such-user'"
    )


async def test_own_user_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not even ask the name service."""

    def fails(name: str) -> pwd.struct_passwd:
        raise AssertionError("asked")

    monkeypatch.setattr(pwd, "getpwnam", fails)
    result = await run(run="id", args="-u", as_user=own_user().name)
    assert int(result.data) == os.geteuid()


async def test_name_service_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()

    def hangs(name: str) -> pwd.struct_passwd:
        answer.wait(30)
        return pwd.struct_passwd((name, "x", 1, 2, "", "", ""))

    monkeypatch.setattr(pwd, "getpwnam", hangs)
    monkeypatch.setattr(users, "ASK_WITHIN", 0.05)
    monkeypatch.setattr(users, "FIND_WITHIN", 0.05)
    why = "the name service did not answer within 0.05 s for user 'somebody'"
    try:
        result = await run(run="true", as_user="somebody")
        assert result.error == f"the command cannot be started: {why}"
        options = {"run": "true", "as_user": "somebody"}
        assert CommandBroker(options).problems() == {"as_user": why}
    finally:
        answer.set()


@needs_root
async def test_as_another_user() -> None:
    result = await sh(
        "id -un; id -gn; echo $USER $LOGNAME $HOME $SHELL; pwd; umask",
        as_user="nobody",
    )
    entry = pwd.getpwnam("nobody")
    lines = result.data.splitlines()
    assert lines[0] == "nobody"
    assert lines[2] == f"nobody nobody {entry.pw_dir} {entry.pw_shell}"


@needs_root
async def test_names_of_one_uid_have_their_own_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also a name of the agent's own uid."""
    ids = {"first": 65534, "second": 65534, "toor": 0}
    groups = {"first": [7], "second": [7, 4], "toor": [7, 4]}

    def entry(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", ids[name], 7, "", "", ""))

    monkeypatch.setattr(pwd, "getpwnam", entry)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: groups[name])
    for name, uid in ids.items():
        result = await sh("id -u; id -G", as_user=name)
        shown = "".join(f"{group} " for group in groups[name]).strip()
        assert result.data == f"{uid}\n{shown}\n"


async def test_own_name_keeps_the_agent_s_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An agent that is not root could not change them."""
    groups = [*os.getgroups(), 4, 7]
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: groups)
    options = {"run": "id", "args": "-G", "as_user": own_user().name}
    assert CommandBroker(options).problems() == {}
    result = await run(**options)
    shown = set(map(int, result.data.split()))
    assert shown == {os.getegid(), *os.getgroups()}


@needs_root
async def test_script_that_another_user_cannot_read() -> None:
    """Other users cannot enter pytest's own folders."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        script = Path(folder) / "script"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o711)
        result = await run(run=str(script), as_user="nobody")
    assert result.error.startswith("the command ended with exit status ")
    assert str(script) in result.detail
    assert "Permission denied" in result.detail


@needs_root
async def test_command_of_another_user_can_be_stopped(hurry: None) -> None:
    script = "trap '' TERM; echo begun; while :; do sleep 600; done"
    result = await sh(script, as_user="nobody", timeout=0.3)
    assert "timeout" in result.error
    assert result.data == "begun\n"


async def test_only_root_can_run_as_another_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = User("plain", 12345, 12345, "/", "/bin/sh")
    monkeypatch.setattr(program_module, "own_user", lambda: plain)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    broker = CommandBroker({"run": "true", "as_user": "nobody"})
    why = "the agent runs as 'plain': only root can run commands as 'nobody'"
    assert broker.problems() == {"as_user": why}
    result = await broker.prepare(request()).run()
    assert result.error == f"the command cannot be started: {why}"


@needs_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_a_real_agent_that_is_not_root() -> None:
    script = """
        import asyncio, json, uuid
        from ngcp_task_agent.brokers.command import CommandBroker
        from ngcp_task_agent.protocol.messages import parse_request

        fields = dict(uuid=str(uuid.uuid4()), options={})
        fields.update(dict.fromkeys(("task", "src", "dst"), "x"))
        request = parse_request(json.dumps(fields).encode(), 1000)
        for options in (
            {"run": "id", "args": "-u"},
            {"run": "id", "args": "-u", "as_user": "nobody"},
            {"run": "id", "args": "-u", "as_user": "root"},
        ):
            work = CommandBroker(options).prepare(request)
            result = asyncio.run(work.run())
            print((result.data or result.error.encode()).decode().strip())
    """
    nobody = pwd.getpwnam("nobody")
    root = ROOT

    def python(code: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [
                *("setpriv", f"--reuid={nobody.pw_uid}", "--clear-groups"),
                *(sys.executable, "-c", textwrap.dedent(code)),
            ],
            env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            check=False,
        )

    if python("import jsonschema, ngcp_task_agent").returncode != 0:
        pytest.skip("another user cannot run this Python")
    done = python(script)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.decode().splitlines()
    assert int(first) == int(second) == nobody.pw_uid
    assert "only root can run commands as 'root'" in third


async def test_stop(tmp_path: Path, hurry: None) -> None:
    begun = tmp_path / "begun"
    script = f"echo begun; touch {begun}; exec sleep 600"
    options = {"run": "sh", "args": ["-c", script]}
    work = CommandBroker(options).prepare(request())
    running = asyncio.create_task(work.run())
    await until(begun.exists)
    work.stop()
    result = await running
    assert result.error == "the agent is stopping and has ended the command"
    assert result.data == b"begun\n"


async def test_stop_before_it_begins() -> None:
    work = CommandBroker({"run": "sleep", "args": "600"}).prepare(request())
    work.stop()
    result = await work.run()
    assert "the agent is stopping" in result.error


async def test_concurrent_commands() -> None:
    results = await asyncio.gather(
        *(
            sh('echo "$1"', {"extra_args": str(n)}, extra_args=True)
            for n in range(20)
        )
    )
    assert [int(result.data) for result in results] == list(range(20))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["extra_args", "a"]), inner)
        ),
        max_leaves=5,
    )
)
def test_any_data_is_taken_or_rejected(data: Any) -> None:
    for allowed in (True, False, ["a+"]):
        broker = CommandBroker({"run": "true", "extra_args": allowed})
        with contextlib.suppress(Rejected):
            broker.prepare(request(data))
