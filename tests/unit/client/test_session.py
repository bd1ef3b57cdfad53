"""The client's connection to a server that refuses, stalls or hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any, AsyncIterator, List, Optional

import pytest

from ngcp_task_agent.client import (
    Address,
    Client,
    ConnectionLost,
    Patience,
    RedisUnavailable,
    Verdict,
)
from tests.unit.fakes import CHANNEL, WITHIN, until
from tests.unit.resp import Server

PATIENCE = Patience(timeout=WITHIN, answer_timeout=WITHIN, settle=0.05)
REFUSED = b"-NOPERM no permission\r\n"


@contextlib.asynccontextmanager
async def running(server: Server) -> AsyncIterator[Server]:
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def client_of(server: Server, **options: Any) -> Client:
    return Client(Address(server.options, CHANNEL, "me"), **options)


def answer(server: Server, client: Client, *statuses: str) -> None:
    """Answer the last request as a node."""
    request = json.loads(server.messages[-1])
    for status in statuses:
        fields = {"uuid": status, "ref": request["uuid"], "src": "sp1"}
        fields.update(status=status, reason="", data="out")
        server.push(client.feedback_channel, json.dumps(fields).encode())


def begin(client: Client) -> asyncio.Task[Any]:
    return asyncio.create_task(client.run("t", "*", patience=PATIENCE))


PINGS: List[Any] = [
    pytest.param(b"-MISCONF cannot persist\r\n", id="no-disk"),
    pytest.param(b"-MASTERDOWN link is down\r\n", id="master-down"),
    pytest.param(REFUSED, id="not-allowed"),
]


@pytest.mark.parametrize("reply", PINGS)
async def test_a_refused_ping_does_not_lose_the_connection(
    reply: bytes, tmp_path: Path
) -> None:
    async with running(Server(tmp_path)) as server:
        server.replies["PING"] = reply
        async with client_of(server, ping_interval=0.05) as client:
            task = begin(client)
            await until(lambda: server.published)
            answer(server, client, "accepted")
            await until(lambda: server.count("PING") > 4)
            assert not task.done()
            answer(server, client, "done")
            outcome = await asyncio.wait_for(task, WITHIN)
    assert outcome.verdict is Verdict.DONE


async def test_a_refused_publish(tmp_path: Path) -> None:
    async with running(Server(tmp_path)) as server:
        server.replies["PUBLISH"] = REFUSED
        async with client_of(server) as client:
            for _ in range(2):
                with pytest.raises(
                    RedisUnavailable,
                    match="refuses to publish to control: .*no perm",
                ) as caught:
                    await begin(client)
                assert not isinstance(caught.value, ConnectionLost)
            # The connection is still usable.
            del server.replies["PUBLISH"]
            task = begin(client)
            await until(lambda: server.published)
            answer(server, client, "accepted", "done")
            assert (await asyncio.wait_for(task, WITHIN)).succeeded


async def test_cancelled_call_asks_no_more(tmp_path: Path) -> None:
    async with running(Server(tmp_path)) as server:
        async with client_of(server) as client:
            task = begin(client)
            await until(lambda: server.published)
            answer(server, client, "accepted", "done")
            await task
            before = asyncio.all_tasks()
            task = asyncio.create_task(client.run("t", "alias"))
            await until(lambda: len(server.published) == 2)
            answer(server, client, "accepted", "done")
            # Whose name is it?
            await until(lambda: len(server.published) == 3)
            task.cancel()
            await asyncio.wait({task})
            await asyncio.sleep(0.1)
            assert asyncio.all_tasks() == before


REFUSALS: List[Any] = [
    pytest.param(
        *("SUBSCRIBE", REFUSED, "refuses to subscribe to .*no permission"),
        id="subscribe",
    ),
    pytest.param(
        *("AUTH", b"-WRONGPASS invalid password\r\n"),
        "refuses the login: .*invalid password",
        id="password",
    ),
    pytest.param(
        *("AUTH", b"-ERR Client sent AUTH, but no password is set\r\n"),
        "refuses the login: .*no password is set",
        id="no-password",
    ),
    pytest.param(
        *("AUTH", b"-NOAUTH Authentication required.\r\n"),
        "refuses the login: Authentication required; give .* REDISCLI_AUTH",
        id="login-required",
    ),
]


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR Client sent AUTH, but no password is set\r\n",
        b"-ERR AUTH <password> called without any password configured for the "
        b"default user. Are you sure your configuration is correct?\r\n",
    ],
)
async def test_server_that_wants_no_password(
    refusal: bytes, tmp_path: Path
) -> None:
    async with running(Server(tmp_path)) as server:
        server.replies["AUTH"] = refusal
        options = {**server.options, "password": "x"}
        address = Address(options, CHANNEL, "me", is_password_spare=True)
        async with Client(address) as client:
            task = begin(client)
            await until(lambda: server.published)
            answer(server, client, "accepted", "done")
            assert (await task).succeeded
        # Not for each connection again.
        assert server.count("AUTH") == 1


@pytest.mark.parametrize(
    ("tls", "says", "advice"),
    [
        # As Redis does: with TLS it hangs up, without it waits for more.
        (None, b"", "; if that port wants TLS, use rediss://"),
        ({}, None, "; if that port is without TLS, use redis://"),
        ({}, b"-ERR what?\r\n", "; if that port is without TLS, use redis://"),
    ],
)
async def test_tls_on_one_side_only(
    tls: Any, says: Optional[bytes], advice: str
) -> None:
    writers: List[asyncio.StreamWriter] = []

    async def serve(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers.append(writer)
        await reader.read(1)
        if says is not None:
            writer.write(says)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    options = {"port": port, **({} if tls is None else {"tls": tls})}
    with pytest.raises(RedisUnavailable, match=re.escape(advice)):
        async with Client(Address(options), connect_timeout=0.5):
            pass
    for writer in writers:
        writer.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("tls", "says", "why"),
    [
        (None, b"-ERR max number of clients reached\r\n", "max number of cl"),
        (None, b"-DENIED it is in protected mode\r\n", "it is in protected m"),
        ({}, b"", "Connection reset by peer; if that port is without TLS"),
    ],
)
async def test_server_that_hangs_up_at_once(
    tls: Any, says: bytes, why: str
) -> None:
    async def serve(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(says)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    options = {"port": port, **({} if tls is None else {"tls": tls})}
    # redis-py 8 hangs up before it is read, if the server is fast.
    why = f"cannot be reached: ({why}|Connection reset by peer)"
    for _ in range(10):
        with pytest.raises(RedisUnavailable, match=why):
            async with Client(Address(options)):
                pass
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("login", "is_spare", "advice"),
    [
        ({"password": "x"}, True, "; the password was that in REDISCLI_AUTH$"),
        ({"password": "x"}, False, "is disabled.$"),
        ({"password_file": "x"}, False, "is disabled.$"),
        ({"username": "u"}, False, "; give the password in REDISCLI_AUTH,"),
    ],
)
async def test_password_that_is_refused(
    login: Any, is_spare: bool, advice: str, tmp_path: Path
) -> None:
    if "password_file" in login:
        login = {"password_file": str(tmp_path / "file")}
        (tmp_path / "file").write_text("x")
    async with running(Server(tmp_path)) as server:
        server.replies["AUTH"] = (
            b"-WRONGPASS invalid username-password pair or user is disabled."
            b"\r\n"
        )
        options = {**server.options, **login}
        address = Address(options, CHANNEL, "me", is_password_spare=is_spare)
        with pytest.raises(RedisUnavailable, match=advice):
            async with Client(address):
                pass
        assert server.count("AUTH") == 1


@pytest.mark.parametrize(("command", "reply", "why"), REFUSALS)
async def test_cannot_be_opened(
    command: str, reply: bytes, why: str, tmp_path: Path
) -> None:
    async with running(Server(tmp_path)) as server:
        server.replies[command] = reply
        address = Address({**server.options, "password": "x"}, CHANNEL, "me")
        with pytest.raises(RedisUnavailable, match=why):
            async with Client(address):
                pass
        await until(lambda: not server.clients)


async def test_no_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with pytest.raises(
        RedisUnavailable, match=f"at {server.path} cannot be reached: No su"
    ):
        async with client_of(server):
            pass


async def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    async with running(Server(tmp_path)) as server:
        server.stalled = True
        with pytest.raises(RedisUnavailable, match=r"no answer within 0\.1 s"):
            async with client_of(server, connect_timeout=0.1):
                pass
        await until(lambda: not server.clients)


async def test_a_server_that_stalls_is_lost(tmp_path: Path) -> None:
    async with running(Server(tmp_path)) as server:
        async with client_of(server, ping_interval=0.05) as client:
            task = begin(client)
            await until(lambda: server.published)
            server.stalled = True
            with pytest.raises(ConnectionLost, match="is lost: no answer"):
                await asyncio.wait_for(task, WITHIN)


async def test_a_lost_subscription_is_the_end(tmp_path: Path) -> None:
    async with running(Server(tmp_path)) as server:
        async with client_of(server) as client:
            task = begin(client)
            await until(lambda: server.published)
            server.hang_up()
            with pytest.raises(ConnectionLost, match="is lost"):
                await asyncio.wait_for(task, WITHIN)


@pytest.mark.parametrize("is_carried_out", [False, True])
async def test_a_connection_that_breaks_while_a_request_is_sent(
    is_carried_out: bool, tmp_path: Path
) -> None:
    """A retry could run the task twice."""
    async with running(Server(tmp_path)) as server:
        async with client_of(server) as client:
            server.hang_up_at("PUBLISH", is_carried_out)
            with pytest.raises(ConnectionLost, match="while the request was"):
                await asyncio.wait_for(begin(client), WITHIN)
            assert len(server.published) == is_carried_out
            # The subscription still works: another request can be sent.
            task = begin(client)
            await until(lambda: len(server.published) == is_carried_out + 1)
            answer(server, client, "accepted", "done")
            assert (await asyncio.wait_for(task, WITHIN)).succeeded
