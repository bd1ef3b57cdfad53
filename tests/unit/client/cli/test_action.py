"""The command line that cancels what an interrupted command has begun."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import List

import pytest

from ngcp_task_agent.client import Address, parse_url
from ngcp_task_agent.client.cli import arguments
from ngcp_task_agent.client.cli.invocation import Invocation

UUID = "cb88ac76-f348-4614-866f-43877b893e7e"


def cancel_line(argv: List[str], address: Address) -> str:
    options = arguments.parse(["reload", "-q", *argv])
    return Invocation(options, address, print).cancel_line(UUID)


def test_what_the_configuration_gives_is_left_out() -> None:
    for address in (Address(src="n"), Address(src="n", backend="redis")):
        assert cancel_line(["--dst", "prx*", "--expect", "3"], address) == (
            f"ngcp-invoke-task --cancel {UUID}"
        )


def test_what_is_needed_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    line = cancel_line(
        ["--config-dir", str(folder)],
        Address(src="n", backend="second", channel="my channel"),
    )
    words = ["--config-dir", str(folder), "--backend", "second"]
    assert shlex.split(line) == [
        *("ngcp-invoke-task", "--cancel", UUID),
        *words,
        *("--channel", "my channel"),
    ]
    # It is a usable command line.
    options = arguments.parse(shlex.split(line)[1:])
    assert (options.cancel, options.channel) == (UUID, "my channel")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://db01", "redis://db01"),
        ("redis://:pw@db01:6380/3", "redis://db01:6380"),
        ("redis://agent:pw@db01", "redis://agent@db01"),
        ("redis://an%40gent:p%2Fw@[::1]:7", "redis://an%40gent@[::1]:7"),
        ("unix://:pw@/run/my redis", "unix:///run/my%20redis"),
        ("rediss://:pw@db01?ca=/a&cert=/b", "rediss://db01?ca=/a&cert=/b"),
        ("rediss://db01", "rediss://db01"),
        ("rediss://:1?pw@db01", "rediss://127.0.0.1:1"),
    ],
)
def test_password_of_a_url_is_left_out(url: str, shown: str) -> None:
    server = parse_url(url)
    line = cancel_line(["--url", url], Address(server, src="n"))
    assert "pw" not in line
    assert "p%2Fw" not in line
    comment = "  # with the password in $REDISCLI_AUTH"
    assert line.endswith(comment) is ("password" in server)
    # A shell takes it as it is.
    words = shlex.split(line, comments=True)
    assert words == ["ngcp-invoke-task", "--cancel", UUID, "--url", shown]
    server.pop("password", None)
    assert parse_url(shown) == server
