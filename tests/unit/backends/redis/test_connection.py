"""How the redis backend connects, and what it logs when it cannot."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent.backends.base import in_thread
from ngcp_task_agent.backends.redis import dial
from ngcp_task_agent.logs import journal
from tests.unit.backends.redis.bench import CHANNELS, Bench, started
from tests.unit.fakes import WITHIN, Records, until, write
from tests.unit.resp import Server

pytestmark = pytest.mark.usefixtures("quick_backoff")

PLACES: List[Any] = [
    pytest.param({}, "127.0.0.1:6379", id="default"),
    pytest.param({"host": "db01"}, "db01:6379", id="name"),
    pytest.param({"host": "10.0.0.1", "port": 1}, "10.0.0.1:1", id="port"),
    pytest.param({"host": "::1", "port": 1}, "[::1]:1", id="ipv6"),
    pytest.param({"unix_socket": "/s"}, "/s", id="unix-socket"),
]


@pytest.mark.parametrize(("options", "place"), PLACES)
async def test_the_server_is_named(
    options: Any, place: str, journal_records: Records
) -> None:
    async def dial(address: Any) -> Any:
        raise OSError("broken")

    bench = Bench(options, dial)
    await bench.backend.start(CHANNELS)
    await bench.stop(0)
    (text,) = journal_records.texts(journal.BACKEND_DOWN)
    assert text == f"backend redis: {place} is away: broken"


async def reason(options: Any, journal_records: Records) -> str:
    """Return why it is down when started with these options."""
    bench = Bench(options)
    await bench.backend.start(CHANNELS)
    assert bench.backend.status == "away"
    trouble = bench.backend.trouble
    await bench.stop(0)
    (text,) = journal_records.texts(journal.BACKEND_DOWN)
    assert text.partition(" is away: ")[2] == trouble
    return trouble


async def test_an_unknown_name(
    monkeypatch: pytest.MonkeyPatch, journal_records: Records
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    why = await reason({"host": "db01"}, journal_records)
    assert why == "Name or service not known"


async def test_no_server(tmp_path: Path, journal_records: Records) -> None:
    why = await reason(Server(tmp_path).options, journal_records)
    assert why == "No such file or directory"


async def test_a_port_without_a_server(journal_records: Records) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        options = {"port": sock.getsockname()[1]}
        assert await reason(options, journal_records) == "Connection refused"


LOGINS: List[Any] = [
    pytest.param({"password": "x"}, [b"AUTH", b"x"], id="password"),
    pytest.param(
        {"username": "u", "password": "x"}, [b"AUTH", b"u", b"x"], id="user"
    ),
    pytest.param(
        {"password_file": "secret"}, [b"AUTH", b"p4ss word"], id="file"
    ),
]


@pytest.mark.parametrize(("login", "words"), LOGINS)
async def test_logs_in_and_names_itself(
    login: Any, words: List[bytes], tmp_path: Path
) -> None:
    secret = write(tmp_path / "secret", "p4ss word\n")
    if "password_file" in login:
        login = {"password_file": str(secret)}
    server = Server(tmp_path)
    async with started(server, **login):
        assert server.commands[0] == words
        assert server.count("CLIENT", "SETNAME", "ngcp-task-agent") == 2


async def test_the_password_file_is_read_for_each_connection(
    tmp_path: Path,
) -> None:
    secret = write(tmp_path / "secret", "one\n")
    server = Server(tmp_path)
    async with started(server, password_file=str(secret)) as bench:
        secret.write_text("two")
        await server.stop()
        await until(lambda: bench.backend.status == "away")
        server.commands.clear()
        await server.start()
        await until(lambda: bench.backend.status == "subscribed")
        assert server.count("AUTH", "two")
        assert not server.count("AUTH", "one")


async def test_the_user_without_permission_to_log_in(
    server: Server, journal_records: Records
) -> None:
    server.replies["AUTH"] = b"-WRONGPASS invalid password\r\n"
    await server.start()
    options = {**server.options, "password": "x"}
    assert "invalid password" in await reason(options, journal_records)
    await server.stop()


async def test_a_server_that_does_not_answer(
    server: Server, journal_records: Records
) -> None:
    server.stalled = True
    await server.start()
    options = {**server.options, "ping_interval": 0.1}
    why = await reason(options, journal_records)
    assert why.startswith("no answer within 0.")
    await server.stop()


async def test_a_server_of_another_kind(
    tmp_path: Path, journal_records: Records
) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await reader.read()
        writer.close()

    path = tmp_path / "socket"
    server = await asyncio.start_unix_server(serve, str(path))
    assert await reason({"unix_socket": str(path)}, journal_records)
    server.close()
    await server.wait_closed()


def odd_files(folder: Path) -> Any:
    """Files that cannot be used, and why."""
    os.mkfifo(folder / "pipe")
    (folder / "latin-1").write_bytes(b"\xff")
    write(folder / "large", "x" * 10_000)
    return {
        "pipe": "is not a file",
        "latin-1": "is not UTF-8",
        "large": "is larger than 4096 bytes",
        "none": "No such file or directory",
        ".": "is not a file",
    }


FILES: List[Any] = [
    ("password_file", name)
    for name in ("pipe", "latin-1", "large", "none", ".")
] + [(key, name) for key in ("ca", "cert") for name in ("pipe", "none", ".")]


@pytest.mark.parametrize(("key", "name"), FILES)
async def test_unusable_files(
    key: str, name: str, tmp_path: Path, journal_records: Records
) -> None:
    why = odd_files(tmp_path)[name]
    path = str(tmp_path / name)
    options: Any = {key: path}
    if key != "password_file":
        options = {"port": 1, "tls": {key: path}}
    text = await reason(options, journal_records)
    assert text in (f"{path} {why}", f"{why} ({path})")


@pytest.mark.parametrize("key", ["password_file", "ca"])
async def test_a_device_is_not_read(
    key: str, journal_records: Records
) -> None:
    options: Any = {key: "/dev/zero"}
    if key != "password_file":
        options = {"port": 1, "tls": options}
    assert "is not a file" in await reason(options, journal_records)


async def test_a_file_that_is_not_a_certificate(
    tmp_path: Path, journal_records: Records
) -> None:
    ca = write(tmp_path / "ca.pem", "nothing of the kind")
    options = {"port": 1, "tls": {"ca": str(ca)}}
    assert await reason(options, journal_records)


class Broken:
    """A redis-py connection that cannot be made."""

    async def connect(self) -> None:
        raise OSError("broken")

    async def disconnect(self) -> None:
        pass


async def broken(address: Any) -> Any:
    return Broken()


@pytest.mark.parametrize("is_there", [False, True])
async def test_can_be_stopped_at_any_moment(
    is_there: bool, server: Server
) -> None:
    bugs: List[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: bugs.append(context))
    await server.start()
    for steps in range(60):
        bench = Bench(server.options, None if is_there else broken)
        starting = asyncio.create_task(bench.backend.start(CHANNELS))
        for _ in range(steps):
            await asyncio.sleep(0)
        await bench.stop(0)
        starting.cancel()
        await asyncio.wait({starting})
        await until(lambda: not server.clients)
    await server.stop()
    del starting
    gc.collect()
    assert not bugs


async def test_a_slow_disk_does_not_delay_large_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = threading.Event()

    def slow_open(path: str, mode: str) -> Any:
        reads.wait(WITHIN)
        return open(path, mode)

    monkeypatch.setattr(dial, "open", slow_open, raising=False)
    file = write(tmp_path / "password", "secret")
    connect = dial.dial_server({"password_file": str(file)})
    dialling = [asyncio.ensure_future(connect(None)) for _ in range(8)]
    try:
        encoded = await asyncio.wait_for(in_thread(lambda: b"x"), WITHIN / 2)
        assert encoded == b"x"
        assert not any(attempt.done() for attempt in dialling)
    finally:
        reads.set()
        await asyncio.gather(*dialling)
