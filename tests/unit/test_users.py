"""Users that commands run as."""

from __future__ import annotations

import os
import pwd

import pytest

from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.users import PATH, find_user, own_user


def test_own_user() -> None:
    user = own_user()
    assert user.is_own
    assert user.uid == os.geteuid()


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


@pytest.mark.parametrize("name", ["no-such-user", "", "a\0b", "\ud800", "0"])
def test_no_such_user(name: str) -> None:
    with pytest.raises(CannotStart, match="there is no user"):
        find_user(name)


def test_user_without_home_and_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("x", "x", 1, 2, "", "", ""))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entry)
    user = find_user("x")
    assert (user.home, user.shell) == ("/", "/bin/sh")
