"""Processes: started, read and ended, with nothing left over."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import itertools
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
)

import pytest

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process import run as process_module
from ngcp_task_agent.process.run import EndCause, Exit, Process
from ngcp_task_agent.process.spawn import Command, find_program
from ngcp_task_agent.process.users import User, find_user, own_user
from tests.parts import is_running
from tests.unit.fakes import has_children, needs_root, until

Program = Callable[..., str]


def command(*argv: str, **options: Any) -> Command:
    defaults: Dict[str, Any] = {
        "user": own_user(),
        "environment": {"PATH": "/usr/bin:/bin"},
        "max_output": 1 << 20,
        # Only to end a failing test.
        "timeout": 60.0,
    }
    return Command(list(argv), **{**defaults, **options})


def sh(script: str, *args: str, **options: Any) -> Command:
    return command("/bin/sh", "-c", script, "sh", *args, **options)


async def run(what: Command) -> Exit:
    return await Process(what).run()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits long for a stubborn child."""
    monkeypatch.setattr(process_module, "KILL_AFTER", 0.1)


async def test_output_and_exit_status() -> None:
    ended = await run(sh("echo out; echo err >&2; exit 3"))
    assert ended.cause is EndCause.EXITED
    assert (ended.exit_status, ended.signal) == (3, None)
    assert ended.stdout == b"out\n"
    assert ended.stderr == b"err\n"


async def test_ends_by_a_signal() -> None:
    ended = await run(sh("kill -USR1 $$"))
    assert ended.cause is EndCause.EXITED
    assert (ended.exit_status, ended.signal) == (None, signal.SIGUSR1)


async def test_arguments_are_not_for_a_shell() -> None:
    words = ["$HOME", "a b", "'", '"', ";ls", "", "-n", "\u20ac", "*"]
    ended = await run(sh('printf "%s|" "$@"', *words))
    assert ended.stdout.decode() == "".join(f"{word}|" for word in words)


async def test_environment_is_exact() -> None:
    ended = await run(command("/usr/bin/env", environment={"A": "\u20ac"}))
    assert ended.stdout.decode() == "A=\u20ac\n"


async def test_standard_input_is_empty() -> None:
    ended = await run(sh("cat; readlink /proc/self/fd/0"))
    assert ended.stdout == b"/dev/null\n"


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
async def test_standard_input_is_data(size: int) -> None:
    ended = await run(command("/bin/cat", stdin=b"x" * size))
    assert ended.stdout == b"x" * size


async def test_unread_data_does_not_block() -> None:
    ended = await run(command("/bin/true", stdin=b"x" * 1_000_000))
    assert ended.exit_status == 0


async def test_session_and_signals() -> None:
    """Its own session, and no signal ignored or blocked."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        ended = await run(
            # The leader itself, not one of its children.
            sh(
                "cut -d' ' -f5,6 /proc/$$/stat; echo $$;"
                "exec cat /proc/$$/status"
            )
        )
    finally:
        signal.signal(signal.SIGQUIT, before)
    group_and_session, pid, *status = ended.stdout.decode().splitlines()
    assert group_and_session.split() == [pid, pid]
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert int(fields["SigBlk"], 16) == 0
    # The two after the first 31 belong to the C library.
    assert int(fields["SigIgn"], 16) & 0x7FFFFFFF == 0


async def test_no_descriptor_is_inherited() -> None:
    """Except those that the tests themselves must pass on."""
    inherited = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                inherited.add(int(name))
        except OSError:
            pass  # the listing's own
    ended = await run(sh("echo /proc/self/fd/*"))
    has = {int(path.rpartition(b"/")[2]) for path in ended.stdout.split()}
    # The shell's own folder has the next free number.
    assert len(has - inherited - {0, 1, 2}) <= 1


async def test_only_the_end_of_standard_error_is_kept() -> None:
    ended = await run(sh("seq 100000 >&2"))
    assert len(ended.stderr) == 4096
    assert ended.stderr.endswith(b"99999\n100000\n")


async def test_standard_error_as_it_comes() -> None:
    got: List[bytes] = []
    script = "seq 100000 >&2; echo out"
    ended = await run(sh(script, on_stderr=got.append))
    assert b"".join(got) == b"".join(b"%d\n" % n for n in range(1, 100_001))
    assert got.index(b"") == len(got) - 1
    assert ended.stdout == b"out\n"


async def test_standard_output_as_it_comes(tmp_path: Path) -> None:
    got: List[bytes] = []
    go = tmp_path / "go"
    script = f"echo one; until [ -e {go} ]; do sleep 0.01; done; echo two"
    running = asyncio.ensure_future(run(sh(script, on_stdout=got.append)))
    await until(lambda: got)
    assert got == [b"one\n"]
    go.touch()
    assert (await running).stdout == b"one\ntwo\n"
    assert got == [b"one\n", b"two\n", b""]


async def test_standard_error_up_to_the_limit() -> None:
    """The end is told once, also if the command goes on writing."""
    got: List[bytes] = []
    endless = sh("cat /dev/zero >&2", max_output=100_000, on_stderr=got.append)
    assert (await run(endless)).cause is EndCause.OUTPUT
    assert len(b"".join(got)) == 100_000
    assert got.count(b"") == 1
    assert got[-1] == b""


async def test_standard_error_of_what_cannot_start() -> None:
    got: List[bytes] = []
    with pytest.raises(CannotStart):
        await run(command("/nowhere/x", on_stderr=got.append))
    assert got == [b""]


async def test_timeout() -> None:
    ended = await run(sh("echo begun; exec sleep 600", timeout=0.2))
    assert ended.cause is EndCause.TIMEOUT
    assert ended.signal == signal.SIGTERM
    assert ended.stdout == b"begun\n"


async def test_timeout_of_an_instant() -> None:
    ended = await run(sh("exec sleep 600", timeout=1e-9))
    assert ended.cause is EndCause.TIMEOUT


async def test_no_timeout() -> None:
    ended = await run(sh("exec sleep 0.1", timeout=None))
    assert ended.cause is EndCause.EXITED


async def test_stubborn_child(hurry: None) -> None:
    script = "trap '' TERM; echo begun; while :; do sleep 600; done"
    ended = await run(sh(script, timeout=0.2))
    assert ended.cause is EndCause.TIMEOUT
    assert ended.signal == signal.SIGKILL


async def test_child_that_cleans_up_when_asked_to_end(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    script = (
        "trap 'echo clean; exit 7' TERM; echo begun; touch \"$1\";"
        "while :; do sleep 0.01; done"
    )
    process = Process(sh(script, str(begun)))
    running = asyncio.create_task(process.run())
    await until(begun.exists)
    process.stop()
    process.stop()
    ended = await running
    assert ended.cause is EndCause.STOPPED
    assert (ended.exit_status, ended.stdout) == (7, b"begun\nclean\n")


async def test_stopped_before_it_began() -> None:
    process = Process(sh("sleep 600"))
    process.stop()
    assert (await process.run()).cause is EndCause.STOPPED


async def test_cancelled() -> None:
    running = asyncio.create_task(run(sh("sleep 600")))
    await until(has_children)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # It is reaped when it ends, an instant later: the fixture looks.
    await until(lambda: not has_children())


TOO_MUCH = [
    pytest.param("cat /dev/zero", id="endless-output"),
    pytest.param("cat /dev/zero >&2", id="endless-errors"),
    pytest.param("trap '' TERM; cat /dev/zero; cat /dev/zero", id="stubborn"),
    pytest.param("head -c 100001 /dev/zero", id="one-byte"),
    pytest.param("head -c 100001 /dev/zero >&2", id="one-byte-of-errors"),
]


@pytest.mark.parametrize("script", TOO_MUCH)
async def test_too_much_output(script: str, hurry: None) -> None:
    """Even if the command ends before this is noticed."""
    for _ in range(3):
        ended = await run(sh(script, max_output=100_000))
        assert ended.cause is EndCause.OUTPUT
        assert len(ended.stdout) <= 100_000


async def test_too_much_output_of_a_command_that_has_ended() -> None:
    for _ in range(10):
        ended = await run(sh("echo 12345678", max_output=8))
        assert ended.cause is EndCause.OUTPUT
        assert ended.stdout == b"12345678"


async def test_exactly_the_allowed_output() -> None:
    ended = await run(sh("head -c 100000 /dev/zero", max_output=100_000))
    assert ended.cause is EndCause.EXITED
    assert len(ended.stdout) == 100_000


async def test_grandchild_that_keeps_the_pipe() -> None:
    begin = time.monotonic()
    ended = await run(sh("sleep 600 & echo $!"))
    assert ended.cause is EndCause.EXITED
    assert ended.exit_status == 0
    assert time.monotonic() - begin < 30
    await until(lambda: not is_running(int(ended.stdout)))


async def test_grandchild_without_the_pipe_is_ended_too() -> None:
    ended = await run(sh("sleep 600 >/dev/null 2>&1 & echo $!"))
    await until(lambda: not is_running(int(ended.stdout)))


async def test_grandchild_in_another_session(tmp_path: Path) -> None:
    """It survives, like a service that the command starts."""
    file = tmp_path / "pid"
    script = (
        'setsid sh -c \'echo $$ > "$0"; exec sleep 600\' "$1" &'
        'while [ ! -s "$1" ]; do sleep 0.01; done; echo begun'
    )
    begin = time.monotonic()
    ended = await run(sh(script, str(file)))
    assert ended.stdout == b"begun\n"
    assert time.monotonic() - begin < 30
    pid = int(file.read_text())
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


async def test_group_is_ended_with_its_leader(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = 'sleep 600 & echo $! > "$1"; wait'
    ended = await run(sh(script, str(file), timeout=0.3))
    assert ended.cause is EndCause.TIMEOUT
    await until(lambda: not is_running(int(file.read_text())))


async def test_quick_commands_beside_a_long_one() -> None:
    """Descriptors of those that have ended are used again."""
    process = Process(sh("exec sleep 600"))
    long = asyncio.create_task(process.run())
    for n in range(20):
        ended = await run(sh('echo "$1"', str(n)))
        assert ended.stdout == b"%d\n" % n
    assert not long.done()
    process.stop()
    assert (await long).cause is EndCause.STOPPED


async def test_many_at_once() -> None:
    endeds = await asyncio.gather(
        *(run(sh('echo "$1"', str(n))) for n in range(50))
    )
    assert [int(ended.stdout) for ended in endeds] == list(range(50))


CANNOT_START: List[Any] = [
    pytest.param("/nowhere/x", [], "there is no program", id="missing"),
    pytest.param("/", [], "is not a file", id="a-folder"),
    pytest.param("/bin/true", ["x" * 3_000_000], "too long", id="too-long"),
]


@pytest.mark.parametrize(("path", "args", "why"), CANNOT_START)
async def test_cannot_start(path: str, args: List[str], why: str) -> None:
    with pytest.raises(CannotStart, match=why) as caught:
        await run(command(path, *args))
    assert path in str(caught.value)


async def test_cannot_start_without_an_interpreter(program: Program) -> None:
    path = program("#!/nowhere/interpreter\n")
    with pytest.raises(CannotStart, match="or the interpreter it names"):
        await run(command(path))


USERS = ["own", pytest.param("nobody", marks=needs_root)]
NO_PROGRAMS = [
    pytest.param(b"\0\1\2\3", id="binary"),
    pytest.param(b"echo x\n", id="script-without-interpreter"),
    pytest.param(b"#! \t\n/bin/sh\n", id="interpreter-without-name"),
    pytest.param(b"", id="empty"),
]


@pytest.mark.parametrize("name", USERS)
@pytest.mark.parametrize("content", NO_PROGRAMS)
async def test_cannot_start_a_file_that_is_not_a_program(
    content: bytes, name: str, tmp_path: Path
) -> None:
    """For all users: no shell runs what the system does not."""
    path = tmp_path / "program"
    path.write_bytes(content)
    path.chmod(0o755)
    user = own_user() if name == "own" else find_user(name)
    with pytest.raises(CannotStart, match="is not a program that the"):
        await run(command(str(path), user=user))


@pytest.mark.parametrize("word", ["a\0b", "\ud800"], ids=["nul", "half-pair"])
async def test_cannot_start_with_impossible_words(word: str) -> None:
    """The words of another package's broker are not checked."""
    with pytest.raises(CannotStart):
        await run(command("/bin/true", word))
    with pytest.raises(CannotStart):
        await run(command("/bin/true", environment={"A": word}))


async def test_cannot_start_a_file_that_is_no_longer_executable(
    program: Program,
) -> None:
    path = program("exit 0", mode=0o644)
    with pytest.raises(CannotStart, match="not executable"):
        await run(command(path))


@needs_root
async def test_as_another_user() -> None:
    user = find_user("nobody")
    script = "id -u; id -g; id -G; echo out > /dev/stdout"
    ended = await run(sh(script, user=user))
    uid, gid, groups, out = ended.stdout.decode().splitlines()
    assert (int(uid), int(gid)) == (user.uid, user.gid)
    assert set(map(int, groups.split())) == set(
        os.getgrouplist(user.name, user.gid)
    )
    assert out == "out"
    assert ended.exit_status == 0


@needs_root
async def test_group_of_another_user_is_ended() -> None:
    user = find_user("nobody")
    ended = await run(sh("echo $$; sleep 600", user=user, timeout=0.3))
    assert ended.cause is EndCause.TIMEOUT
    await until(lambda: not is_running(int(ended.stdout)))


@pytest.fixture
def open_program() -> Iterator[Program]:
    """Make files in a folder that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)

        def make(text: str, mode: int) -> str:
            path = Path(folder) / "program"
            path.write_text(text)
            path.chmod(mode)
            return str(path)

        yield make


@needs_root
@pytest.mark.parametrize("interpreter", ["/bin/sh", "/bin/bash"])
async def test_a_script_that_another_user_cannot_read(
    interpreter: str, open_program: Program
) -> None:
    """It starts, but its interpreter fails, and says why."""
    path = open_program(f"#!{interpreter}\n", mode=0o711)
    ended = await run(command(path, user=find_user("nobody")))
    assert ended.exit_status not in (0, None)
    assert path in ended.stderr.decode()
    assert b"Permission denied" in ended.stderr


UNCHANGED = 2**32 - 1  # what setuid(2) and setgid(2) take for "as before"

NOT_STARTED: List[Any] = [
    pytest.param(
        "#!/nowhere/interpreter\n",
        0o755,
        "'{}', or the interpreter it names, does not exist",
        id="interpreter",
    ),
    pytest.param(
        "#!/bin/sh\n", 0o700, "'{}' is not executable for 'nobody'", id="mode"
    ),
    pytest.param("#!/bin/sh\n", 0o644, "'{}' is not executable", id="plain"),
]


@needs_root
@pytest.mark.parametrize(("text", "mode", "why"), NOT_STARTED)
async def test_a_program_that_another_user_cannot_start(
    text: str, mode: int, why: str, open_program: Program
) -> None:
    path = open_program(text, mode=mode)
    with pytest.raises(CannotStart) as caught:
        await run(command(path, user=find_user("nobody")))
    assert str(caught.value) == why.format(path)


@needs_root
async def test_a_program_of_another_user_that_is_missing() -> None:
    for path, why in (("/nowhere/x", "no program"), ("/", "not a file")):
        with pytest.raises(CannotStart, match=why):
            await run(command(path, user=find_user("nobody")))


REFUSED: List[Any] = [
    pytest.param(UNCHANGED, 7, (), "invalid user", id="user"),
    pytest.param(7, UNCHANGED, (), "invalid group", id="group"),
    pytest.param(
        *(7, 7, (UNCHANGED,)),
        "failed to set supplemental groups: Invalid argument",
        id="groups",
    ),
]


@needs_root
@pytest.mark.parametrize(("uid", "gid", "groups", "why"), REFUSED)
async def test_a_user_that_the_system_refuses(
    uid: int, gid: int, groups: Any, why: str
) -> None:
    """Above all, the command does not run as root."""
    user = User("x", uid, gid, "/", "/bin/sh", groups)
    with pytest.raises(CannotStart) as caught:
        await run(command("/bin/true", user=user))
    assert str(caught.value) == f"'/bin/true' as 'x': {why}"


@needs_root
@pytest.mark.parametrize("status", [1, 125, 126, 127])
async def test_a_command_that_fails_like_its_wrapper(status: int) -> None:
    """With the same statuses, and even with the messages of chroot(8)."""
    user = find_user("nobody")
    script = f"echo out; /usr/sbin/chroot / true; exit {status}"
    path = {"PATH": "/usr/sbin:/usr/bin:/bin"}
    ended = await run(sh(script, user=user, environment=path))
    assert (ended.exit_status, ended.stdout) == (status, b"out\n")
    assert b"Operation not permitted" in ended.stderr


@needs_root
async def test_another_user_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folder, the mask, the words; and no signal ignored or blocked."""
    monkeypatch.chdir("/usr")
    before = os.umask(0o027)
    try:
        words = ["--", "-n", "--help", "+1", "", "\u20ac"]
        script = (
            'pwd; umask; printf "%s|" "$@"; echo; exec cat /proc/$$/status'
        )
        ended = await run(sh(script, *words, user=find_user("nobody")))
    finally:
        os.umask(before)
    folder, mask, got, *status = ended.stdout.decode().splitlines()
    assert (folder, mask) == ("/usr", "0027")
    assert got == "".join(f"{word}|" for word in words)
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert int(fields["SigBlk"], 16) == 0
    assert int(fields["SigIgn"], 16) & 0x7FFFFFFF == 0
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


@needs_root
@pytest.mark.parametrize("groups", [(), (7,), (4, 7, 2**31)])
async def test_exactly_the_groups_of_another_user(
    groups: Sequence[int],
) -> None:
    user = User("x", 65533, 65532, "/", "/bin/sh", tuple(groups))
    ended = await run(command("/bin/cat", "/proc/self/status", user=user))
    fields = dict(
        line.split(":\t", 1)
        for line in ended.stdout.decode().splitlines()
        if ":\t" in line
    )
    assert fields["Uid"].split() == ["65533"] * 4
    assert fields["Gid"].split() == ["65532"] * 4
    assert fields["Groups"].split() == [str(group) for group in groups]


def own(**fields: Any) -> User:
    return dataclasses.replace(own_user(), **fields)


WRAPPERS: List[Any] = [
    pytest.param(own(), None, id="own"),
    pytest.param(own(name="another"), None, id="own-by-another-name"),
    pytest.param(
        own(groups=(*own().groups, 4, 7)),
        "--groups=" + ",".join(f"+{g}" for g in (*own().groups, 4, 7)),
        id="own-uid-with-other-groups",
    ),
    pytest.param(own(gid=7, groups=(7,)), "--groups=+7", id="own-uid-only"),
    pytest.param(own(uid=7, groups=(4, 7)), "--groups=+4,+7", id="another"),
    pytest.param(own(uid=7, groups=()), "--groups=", id="no-groups"),
]


@pytest.mark.parametrize(("user", "groups"), WRAPPERS)
def test_wrapper(
    user: User, groups: Optional[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own rights need none: the program itself is started."""
    started: List[List[str]] = []

    def spawn(path: str, argv: List[str], *args: Any, **more: Any) -> int:
        assert path == argv[0]
        started.append(argv)
        raise OSError(2, "x")

    monkeypatch.setattr(os, "posix_spawn", spawn)
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: None)
    with pytest.raises(CannotStart):
        asyncio.run(run(command("/bin/true", user=user)))
    ids = f"--userspec=+{user.uid}:+{user.gid}"
    options = [ids, groups, "--skip-chdir"]
    wrapper = ["/usr/sbin/chroot", *options, "/"] if groups else []
    assert started == [[*wrapper, "/bin/true"]]


FOUND: List[Any] = [
    pytest.param("/bin/sh", "/bin/sh", id="path"),
    pytest.param("env", "/usr/bin/env", id="name"),
]


@pytest.mark.parametrize(("name", "path"), FOUND)
def test_find_program(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The agent's own path does not count.
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_program(name) == path


def test_program_not_found(tmp_path: Path, program: Program) -> None:
    missing = str(tmp_path / "missing")
    plain = program("exit 0", "plain", mode=0o644)
    for run_, why in (
        (missing, f"there is no program '{missing}'"),
        ("no-such-program", "there is no program 'no-such-program' in /usr"),
        (str(tmp_path), f"'{tmp_path}' is not a file"),
        (plain, f"'{plain}' is not executable"),
    ):
        with pytest.raises(CannotStart) as caught:
            find_program(run_)
        assert why in str(caught.value)


async def test_out_of_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", full)
    with pytest.raises(CannotStart, match="Too many open files"):
        await run(command("/bin/true"))
    monkeypatch.undo()
    monkeypatch.setattr(os, "pidfd_open", full)
    # A process that cannot be watched must not run.
    with pytest.raises(CannotStart, match="Too many open files"):
        await run(sh("sleep 600"))


def no_watches(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Let the system allow no more watches, at these calls."""
    loop = asyncio.get_running_loop()
    add_reader, numbers = loop.add_reader, itertools.count(1)

    def fails(*args: Any) -> None:
        if next(numbers) in calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add_reader(*args)

    monkeypatch.setattr(loop, "add_reader", fails)


async def test_a_process_that_cannot_be_watched_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the command nor a descriptor is left."""
    no_watches(monkeypatch, 1)
    with pytest.raises(CannotStart, match="No space left"):
        await run(sh("sleep 600"))
    await until(lambda: not has_children())


EPOLL = select.epoll


class FullEpoll:
    """One more than the system allows."""

    def __init__(self) -> None:
        self._epoll = EPOLL()
        self.fileno = self._epoll.fileno

    def register(self, *args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_nothing_starts_if_no_end_can_be_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    failed: List[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failed.append(context))
    with monkeypatch.context() as patched:
        patched.setattr(select, "epoll", fail)
        with pytest.raises(CannotStart, match="Too many open files"):
            await run(sh("sleep 600"))
        await until(lambda: not has_children())
        await asyncio.sleep(0.1)
    assert not failed


async def test_a_process_whose_end_cannot_be_watched_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(select, "epoll", FullEpoll)
        with pytest.raises(CannotStart, match="No space left"):
            await run(sh("sleep 600"))
    await until(lambda: not has_children())


@pytest.mark.parametrize("calls", [(2,), (3,), range(2, 1000)])
async def test_output_that_cannot_be_watched_is_read_all_the_same(
    calls: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_watches(monkeypatch, *calls)
    # More than fits in the pipes.
    script = "head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2; echo x"
    ended = await run(sh(f"sleep 0.05; {script}"))
    assert ended.stdout == bytes(200000) + b"x\n"


async def test_a_process_that_survives_a_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even if the kernel keeps the process, run() returns."""
    monkeypatch.setattr(process_module, "KILL_AFTER", 0.05)
    monkeypatch.setattr(process_module, "REAP_WITHIN", 0.05)
    killed: List[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append(pid))
    ended = await run(command("/bin/sleep", "600", timeout=0.05))
    assert ended.cause is EndCause.TIMEOUT
    assert (ended.exit_status, ended.signal) == (None, None)
    os.kill(killed[0], signal.SIGKILL)
    # It is reaped when it ends.
    await until(lambda: not has_children())


TRACED = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
libc.prctl(0x59616D61, -1, 0, 0, 0)  # PR_SET_PTRACER: anyone
leader = os.getpid()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    failed = libc.ptrace(0x4206, leader, None, None)  # PTRACE_SEIZE
    os.write(write, b"0" if failed else b"%d" % os.getpid())
    time.sleep(float(sys.argv[1]))
    os._exit(0)
print(os.read(read, 10).decode())
sys.stdout.flush()
os._exit(7)
"""


async def test_a_debugger_holds_an_ended_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For as long as it likes; run() does not wait for it."""
    monkeypatch.setattr(process_module, "REAP_WITHIN", 0.1)
    ended = await run(command(sys.executable, "-c", TRACED, "30"))
    tracer = int(ended.stdout)
    if not tracer:
        pytest.skip("processes cannot be traced here")
    os.kill(tracer, signal.SIGKILL)
    assert ended.cause is EndCause.EXITED
    assert (ended.exit_status, ended.signal) == (None, None)
    await until(lambda: not has_children())


async def test_a_debugger_releases_an_ended_process() -> None:
    ended = await run(command(sys.executable, "-c", TRACED, "0.3"))
    assert ended.cause is EndCause.EXITED
    assert (ended.exit_status, ended.signal) == (7, None)


def test_user_is_own() -> None:
    assert own_user().is_own
    other = User("x", os.geteuid() + 1, 0, "/", "/bin/sh")
    assert not other.is_own


async def test_output_is_complete_after_a_busy_loop() -> None:
    """A pipe can hold a megabyte, and the loop may read it late."""
    script = (
        "import fcntl, os\n"
        "fcntl.fcntl(1, 1031, 1 << 20)  # F_SETPIPE_SZ\n"
        "os.write(1, b'x' * (1 << 20))\n"
    )
    loop = asyncio.get_running_loop()

    done = False

    def be_busy() -> None:
        if not done:
            time.sleep(0.3)
            loop.call_soon(be_busy)

    loop.call_soon(be_busy)
    busy = command(sys.executable, "-c", script, max_output=2 << 20)
    ended = await Process(busy).run()
    done = True
    assert ended.cause is EndCause.EXITED
    assert len(ended.stdout) == 1 << 20
