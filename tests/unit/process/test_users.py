"""Users that commands run as."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
import time
from typing import Any, Iterator, List

import pytest

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process import users
from ngcp_task_agent.process.users import (
    PATH,
    ask_name,
    ask_user,
    find_user,
    own_user,
    remembering,
)
from tests.unit.fakes import until

pytestmark = pytest.mark.usefixtures("users_looked_up_each_time")


def test_own_user() -> None:
    user = own_user()
    assert user.is_own
    assert user.uid == os.geteuid()
    assert user.gid == os.getegid()
    assert set(user.groups) == set(os.getgroups())


def test_own_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 7)
    user = own_user()
    assert (user.name, user.home, user.shell) == (
        str(2**31 - 7),
        "/",
        "/bin/sh",
    )


def test_find_user() -> None:
    entry = pwd.getpwnam("nobody")
    user = find_user("nobody")
    assert (user.name, user.uid, user.gid) == (
        "nobody",
        entry.pw_uid,
        entry.pw_gid,
    )
    assert user.environment() == {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": entry.pw_dir,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "SHELL": entry.pw_shell,
    }


def test_groups_are_those_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name of the same uid can have other groups."""
    asked: List[Any] = []

    def groups(name: str, gid: int) -> List[int]:
        # A name service can block, here too.
        asked.append(threading.current_thread().name)
        return [gid, {"first": 7, "second": 8}[name]]

    def entry(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", 1, 2, "", "", ""))

    monkeypatch.setattr(pwd, "getpwnam", entry)
    monkeypatch.setattr(os, "getgrouplist", groups)
    assert find_user("first").groups == (2, 7)
    assert find_user("second").groups == (2, 8)
    assert asked == ["user", "user"]


def test_groups_that_cannot_be_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(name: str, gid: int) -> List[int]:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "getgrouplist", fails)
    with pytest.raises(CannotStart, match="cannot be looked up: .*memory"):
        find_user("nobody")


@pytest.mark.parametrize("name", ["no-such-user", "", "a\0b", "\ud800", "0"])
def test_no_such_user(name: str) -> None:
    with pytest.raises(CannotStart, match="there is no user"):
        find_user(name)


def test_user_without_home_and_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("x", "x", 1, 2, "", "", ""))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entry)
    user = find_user("x")
    assert (user.home, user.shell) == ("/", "/bin/sh")


class NameService:
    """Replaces the system's; answers for slow names only when allowed to."""

    def __init__(self) -> None:
        self.asked: List[str] = []
        self.answer = threading.Event()

    def getpwnam(self, name: str) -> pwd.struct_passwd:
        self.asked.append(name)
        if not name.startswith("quick"):
            # Long after the test has failed.
            self.answer.wait(60)
        return pwd.struct_passwd((name, "x", 1, 2, "", "", ""))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    service = NameService()
    monkeypatch.setattr(pwd, "getpwnam", service.getpwnam)
    yield service
    service.answer.set()
    for thread in threading.enumerate():
        if thread.daemon and thread.name == "user":
            thread.join(30)


async def test_lookups_of_one_name_share_the_answer(
    service: NameService,
) -> None:
    asking = [asyncio.create_task(ask_user("slow")) for _ in range(100)]
    await until(lambda: service.asked)
    # Nothing else waits for it: no other name, and no thread.
    assert (await ask_user("quick")).name == "quick"
    assert await asyncio.to_thread(lambda: 1) == 1
    assert service.asked.count("slow") == 1
    service.answer.set()
    assert {(await asked).name for asked in asking} == {"slow"}
    # An answered name is looked up again: the user may have changed.
    await ask_user("slow")
    assert service.asked.count("slow") == 2


async def test_requests_take_a_fresh_answer_for_granted(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "KEPT_FOR", 60.0)
    user = await ask_user("quick1")
    assert await ask_user("quick1") is user
    assert await ask_user("quick2") != user
    assert service.asked == ["quick1", "quick2"]
    # Reading a configuration always looks them up, and requests see that.
    found = find_user("quick1")
    assert found is not user
    assert await ask_user("quick1") is found
    assert service.asked == ["quick1", "quick2", "quick1"]
    monkeypatch.setattr(users, "KEPT_FOR", 0.0)
    assert await ask_user("quick1") is not found


async def test_an_answer_is_as_old_as_its_lookup(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow name service may have read the user long before it answers."""
    monkeypatch.setattr(users, "KEPT_FOR", 1.0)
    asking = asyncio.create_task(ask_user("slow and kept"))
    await until(lambda: service.asked)
    await asyncio.sleep(1.0)
    service.answer.set()
    await asking
    await ask_user("slow and kept")
    assert service.asked == ["slow and kept", "slow and kept"]


async def test_a_user_that_is_missing_is_looked_up_each_time(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was just created can be used at once."""
    monkeypatch.setattr(users, "KEPT_FOR", 60.0)

    def missing(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    before = await ask_user("quick-old")
    with monkeypatch.context() as patched:
        patched.setattr(pwd, "getpwnam", missing)
        with pytest.raises(CannotStart, match="there is no user"):
            await ask_user("quick-new")
        assert await ask_user("quick-old") is before
        # Once it is known to be missing, requests know it too.
        for _ in range(2):
            with pytest.raises(CannotStart, match="there is no user"):
                find_user("quick-old")
            with pytest.raises(CannotStart, match="there is no user"):
                await ask_user("quick-old")
    for name in ("quick-new", "quick-old"):
        assert (await ask_user(name)).name == name


async def test_the_name_service_does_not_answer(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "ASK_WITHIN", 0.05)
    for _ in range(2):
        with pytest.raises(CannotStart) as caught:
            await ask_user("slow")
    assert str(caught.value) == (
        "the name service did not answer within 0.05 s for user 'slow'"
    )
    assert service.asked == ["slow"]


def test_a_missing_answer_does_not_delay_the_exit(
    service: NameService,
) -> None:
    async def leave() -> None:
        asyncio.ensure_future(ask_user("slow"))
        await until(lambda: service.asked)

    asyncio.run(leave())
    assert not service.answer.is_set()


def test_a_late_answer_is_ignored(
    service: NameService, caplog: pytest.LogCaptureFixture
) -> None:
    test_a_missing_answer_does_not_delay_the_exit(service)
    threads = [t for t in threading.enumerate() if t.name == "user"]
    assert threads
    service.answer.set()
    for thread in threads:
        thread.join(30)
    assert not caplog.records


def test_many_missing_answers_share_the_timeout(
    service: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "FIND_WITHIN", 1.0)
    begin = time.monotonic()
    for number in range(30):
        with pytest.raises(CannotStart, match="the name service did not"):
            find_user(f"slow{number}")
    assert time.monotonic() - begin < 20
    # A known user is still found.
    assert find_user("quick").name == "quick"


async def test_lookup_without_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        with pytest.raises(CannotStart, match="can't start new thread"):
            await ask_user("nobody")
    assert (await ask_user("nobody")).name == "nobody"


def test_own_user_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not change, and callers may not block."""
    user = own_user()

    def hangs(uid: int) -> pwd.struct_passwd:
        raise AssertionError("asked")

    monkeypatch.setattr(pwd, "getpwuid", hangs)
    assert own_user() == user


def test_each_name_is_looked_up_once_for_a_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    nobody = pwd.getpwnam("nobody")

    def look_up(name: str) -> pwd.struct_passwd:
        asked.append(name)
        if name == "missing":
            raise KeyError
        return nobody

    monkeypatch.setattr(pwd, "getpwnam", look_up)
    with remembering():
        for _ in range(2):
            assert find_user("a").name == "nobody"
            with pytest.raises(CannotStart, match="no user 'missing'"):
                find_user("missing")
    assert asked == ["a", "missing"]
    find_user("a")
    assert asked == ["a", "missing", "a"]


async def test_the_name_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.getpwnam("nobody")
    assert await ask_name(entry.pw_uid) == "nobody"
    assert await ask_name(2**31 - 7) == str(2**31 - 7)
    # A name service that does not answer delays nothing for long.
    go_on = threading.Event()

    def getpwuid(uid: int) -> pwd.struct_passwd:
        go_on.wait(30)
        return entry

    monkeypatch.setattr(users, "NAME_WITHIN", 0.01)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    assert await ask_name(entry.pw_uid) == str(entry.pw_uid)
    go_on.set()
