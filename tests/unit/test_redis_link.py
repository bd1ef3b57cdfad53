"""One connection to Redis, closed for good at its first error."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any, Awaitable, Callable, List
from unittest.mock import AsyncMock, Mock

import pytest
from redis.exceptions import ResponseError

from ngcp_task_agent.backends.redis_link import (
    Link,
    LinkError,
    Refused,
    describe_server,
    is_own_server,
)
from tests.unit.fakes import WITHIN, until, write
from tests.unit.resp import Server

SERVERS: List[Any] = [
    pytest.param({}, "127.0.0.1:6379", True, id="default"),
    pytest.param({"host": "127.1.2.3"}, "127.1.2.3:6379", True, id="loopback"),
    pytest.param({"host": "::1", "port": 1}, "[::1]:1", True, id="loopback-6"),
    pytest.param(
        {"host": "localhost"}, "localhost:6379", True, id="localhost"
    ),
    pytest.param({"host": "LOCALHOST"}, "LOCALHOST:6379", True, id="case"),
    pytest.param({"host": "10.0.0.1"}, "10.0.0.1:6379", False, id="another"),
    pytest.param({"host": "db01"}, "db01:6379", False, id="name"),
    pytest.param({"host": "localhost.x"}, "localhost.x:6379", False, id="odd"),
    pytest.param({"unix_socket": "/s"}, "/s", True, id="unix-socket"),
]


@pytest.mark.parametrize(("options", "text", "own"), SERVERS)
def test_server(options: Any, text: str, own: bool) -> None:
    assert describe_server(options) == text
    assert is_own_server(options) is own


async def with_server(
    folder: Path, test: Callable[[Server], Awaitable[None]]
) -> None:
    server = Server(folder)
    await server.start()
    try:
        await test(server)
    finally:
        await server.stop()


async def test_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LinkError, match=r"^Name or service not known$"):
        await Link.open({"host": "db01"}, no_push, 30)


def no_push(push: Any) -> None:
    raise AssertionError(push)


async def test_call(tmp_path: Path) -> None:
    async def test(server: Server) -> None:
        server.replies["NO"] = b"-ERR no\r\n"
        link = await Link.open(server.options, no_push, 30)
        replies = await link.call(
            [("PUBLISH", "a", b"1"), ("NO",), ("PUBLISH", "a", b"2")], 30
        )
        assert (replies[0], replies[2]) == (1, 1)
        assert isinstance(replies[1], ResponseError)
        assert server.published == [("a", b"1"), ("a", b"2")]
        await link.close("enough")
        assert link.closed.result() == "enough"
        with pytest.raises(LinkError, match="enough"):
            await link.call([("PING",)], 30)
        with pytest.raises(LinkError, match="enough"):
            await link.send("PING")

    await with_server(tmp_path, test)


async def test_push(tmp_path: Path) -> None:
    async def test(server: Server) -> None:
        pushes: List[Any] = []
        link = await Link.open(server.options, pushes.append, 30)
        await link.send("SUBSCRIBE", "a")
        await until(lambda: len(pushes) == 1)
        for n in range(100):
            server.push("a", b"%d" % n)
        await until(lambda: len(pushes) == 101)
        assert [push[2] for push in pushes[1:]] == [
            b"%d" % n for n in range(100)
        ]
        await link.close("")

    await with_server(tmp_path, test)


async def test_name_and_password(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", "p4ss word\n")

    async def test(server: Server) -> None:
        for options, words in (
            ({"password": "x"}, [b"AUTH", b"x"]),
            ({"username": "u", "password": "x"}, [b"AUTH", b"u", b"x"]),
            ({"password_file": str(secret)}, [b"AUTH", b"p4ss word"]),
        ):
            server.commands.clear()
            link = await Link.open({**server.options, **options}, no_push, 30)
            assert server.commands[0] == words
            assert [b"CLIENT", b"SETNAME", b"ngcp-task-agent"] in [
                [words[0].upper(), words[1].upper(), *words[2:]]
                for words in server.commands[1:]
                if len(words) > 2
            ]
            await link.close("")

    await with_server(tmp_path, test)


async def test_cannot_open(tmp_path: Path) -> None:
    missing = {"unix_socket": str(tmp_path / "nothing")}
    with pytest.raises(LinkError, match="No such file"):
        await Link.open(missing, no_push, 30)

    async def test(server: Server) -> None:
        options = {**server.options, "password_file": str(tmp_path / "no")}
        with pytest.raises(LinkError, match="No such file.*no"):
            await Link.open(options, no_push, 30)
        (tmp_path / "odd").write_bytes(b"\xff")
        options["password_file"] = str(tmp_path / "odd")
        with pytest.raises(LinkError):
            await Link.open(options, no_push, 30)
        server.replies["AUTH"] = b"-WRONGPASS invalid password\r\n"
        with pytest.raises(LinkError, match="invalid password"):
            await Link.open({**server.options, "password": "x"}, no_push, 30)
        server.stalled = True
        with pytest.raises(LinkError, match="no answer within 0.1 s"):
            await Link.open(server.options, no_push, 0.1)

    await with_server(tmp_path, test)


@pytest.mark.parametrize("key", ["password_file", "ca", "cert"])
async def test_files_that_are_none(key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = write(tmp_path / "large", "x" * 10_000)
    for path, why in (
        (str(tmp_path / "pipe"), "is not a file"),
        ("/dev/zero", "is not a file"),
        (str(tmp_path), "is not a file"),
        (str(tmp_path / "none"), "No such file"),
        *([(str(large), "larger than")] if key == "password_file" else []),
    ):
        options: Any = {key: path}
        if key != "password_file":
            options = {"port": 1, "tls": {key: path}}
        with pytest.raises(Refused, match=f"{why}|{path} {why}"):
            await Link.open(options, no_push, WITHIN)


async def test_lost(tmp_path: Path) -> None:
    async def test(server: Server) -> None:
        link = await Link.open(server.options, no_push, 30)
        server.hang_up()
        reason = await asyncio.wait_for(link.closed, 30)
        assert reason
        await link.close("")

    await with_server(tmp_path, test)


async def test_lost_during_a_call(tmp_path: Path) -> None:
    """Nobody knows what Redis has done of the rest."""

    async def test(server: Server) -> None:
        link = await Link.open(server.options, no_push, 30)
        server.stalled = True
        call = asyncio.create_task(link.call([("PUBLISH", "a", "1")] * 3, 30))
        await until(lambda: server.names().count("PUBLISH") == 3)
        server.hang_up()
        assert await call == []
        await link.close("")

    await with_server(tmp_path, test)


async def test_stalled(tmp_path: Path) -> None:
    async def test(server: Server) -> None:
        link = await Link.open(server.options, no_push, 30)
        server.stalled = True
        assert await link.call([("PING",)], 0.1) == []
        assert link.closed.result() == "no answer within 0.1 s"
        await link.close("")

    await with_server(tmp_path, test)


async def test_nothing_is_unsent_on_a_link_that_has_gone() -> None:
    """With TLS its transport has forgotten its socket by then."""
    writer = Mock(
        get_extra_info=Mock(return_value=None),
        transport=Mock(get_write_buffer_size=Mock(side_effect=AttributeError)),
    )
    connection = Mock(
        _writer=writer,
        disconnect=AsyncMock(),
        read_response=AsyncMock(side_effect=OSError),
    )
    link = Link(connection, no_push)
    assert link.unsent == 0
    await link.close("test")
