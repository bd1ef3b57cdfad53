"""A connection to the bus: calls, replies, losses."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Tuple

import pytest

from ngcp_task_agent.bus import connection as module
from ngcp_task_agent.bus.connection import Connection, system_bus_address
from ngcp_task_agent.bus.frames import LONGEST
from ngcp_task_agent.errors import BusAway, BusError
from tests.bus import PrivateBus

# After the package, which defers what dbus_fast loads.
from dbus_fast.constants import MessageFlag, MessageType  # isort: skip
from dbus_fast.message import Message  # isort: skip
from dbus_fast.signature import Variant  # isort: skip

NAME = "com.example.Echo"
LARGE = 3_000_000  # characters


class Echo:
    """Answers a call with its body; ``Silent`` gets no answer, and ``Large``
    a large one.
    """

    def __init__(self, bus: PrivateBus) -> None:
        self._bus = bus
        self._tasks: List[asyncio.Task[None]] = []
        self.signals: List[Any] = []

    async def __aenter__(self) -> Echo:
        self.connection = await Connection.open(self._take, self._bus.address)
        await self.connection.call_bus("RequestName", "su", NAME, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._tasks)
        await self.connection.close()

    def _take(self, message: Message) -> bool:
        if message.message_type is MessageType.SIGNAL:
            self.signals.append(message.body)
        elif message.member != "Silent":
            body = message.body
            if message.member == "Large":
                body = ["x" * LARGE]
            reply = Message(
                destination=message.sender,
                message_type=MessageType.METHOD_RETURN,
                reply_serial=message.serial,
                signature=message.signature,
                body=body,
            )
            if message.member == "Fail":
                reply.message_type = MessageType.ERROR
                reply.error_name = "com.example.Error"
            task = asyncio.ensure_future(self.connection.send(reply))
            self._tasks.append(task)
        return True


async def call(
    connection: Connection, member: str, signature: str = "", *body: Any
) -> List[Any]:
    return await connection.call(
        NAME, "/", "com.example", member, signature, *body, within=5.0
    )


async def test_calls_are_told_apart(private_bus: PrivateBus) -> None:
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        bodies = await asyncio.gather(
            *(call(client, "Echo", "u", number) for number in range(100))
        )
        await client.close()
    assert bodies == [[number] for number in range(100)]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("", ""),
        ("Zürich, 東京, 🐘", "Zürich, 東京, 🐘"),
        ("x\0y", "x\ufffdy"),
        ("half \ud83d pair", "half \ufffd pair"),
    ],
)
async def test_every_text_can_be_sent(
    private_bus: PrivateBus, sent: str, received: str
) -> None:
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        body = await call(
            *(client, "Echo", "sasa{ss}va(ss)", sent, [sent], {sent: sent}),
            *(Variant("as", [sent]), [(sent, "x")]),
        )
        text, texts, mapping, variant, structures = body
        await client.close()
    assert (text, texts, mapping) == (
        received,
        [received],
        {received: received},
    )
    assert variant.value == [received]
    assert [[*s] for s in structures] == [[received, "x"]]


async def test_large_messages_do_not_break_the_connection(
    private_bus: PrivateBus,
) -> None:
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        bodies = await asyncio.gather(
            *(call(client, "Large", "s", "") for _ in range(3)),
            *(call(client, "Echo", "s", "small") for _ in range(20)),
        )
        await client.close()
    assert [len(body[0]) for body in bodies] == [LARGE] * 3 + [5] * 20


async def test_an_error_has_its_name_and_text(
    private_bus: PrivateBus,
) -> None:
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        with pytest.raises(BusError, match="nicht möglich") as caught:
            await call(client, "Fail", "s", "nicht möglich")
        assert caught.value.name == "com.example.Error"
        with pytest.raises(BusError) as caught:
            await call(client, "Fail")
        assert f"{caught.value}" == "com.example.Error"
        await client.close()


async def test_a_call_has_a_deadline(private_bus: PrivateBus) -> None:
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        with pytest.raises(BusError, match="did not answer within 0.1 s"):
            await client.call(NAME, "/", "com.example", "Silent", within=0.1)
        assert await call(client, "Echo", "s", "still open") == ["still open"]
        await client.close()


@pytest.mark.parametrize("number", [1, 3, 10])
async def test_descriptors_from_strangers_are_closed(
    private_bus: PrivateBus, number: int
) -> None:
    reader, writer = os.pipe()
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        for _ in range(5):
            await client.call(
                *(NAME, "/", "com.example", "Echo", "h" * number),
                *range(number),
                fds=[writer] * number,
            )
        await client.close()
        os.close(writer)
        # Nobody else has the writing end.
        assert os.read(reader, 1) == b""
    os.close(reader)


async def test_strangers_cannot_send_signals(private_bus: PrivateBus) -> None:
    async with Echo(private_bus) as echo:
        stranger = await Connection.open(address=private_bus.address)
        (owner,) = await stranger.call_bus("GetNameOwner", "s", NAME)
        echo.signals.clear()
        for destination in owner, None:
            forged = Message(
                destination,
                path="/",
                interface="com.example",
                member="Done",
                message_type=MessageType.SIGNAL,
                signature="s",
                body=["forged"],
            )
            await stranger.send(forged)
        await call(stranger, "Echo")
        await echo.connection.call_bus("ReleaseName", "s", NAME)
        assert echo.signals == [[NAME]]  # the bus's own NameLost
        await stranger.close()


async def receive(
    bus: PrivateBus, *sent: bytes
) -> Tuple[List[List[Any]], List[int]]:
    """Send bytes to a connection, which does not read meanwhile.

    :returns: the bodies of the calls that it takes until one with the number
        0, and how many in each round of the event loop
    """
    bodies: List[List[Any]] = []
    ended = asyncio.Event()

    def take(message: Message) -> bool:
        if message.member == "Echo":
            bodies.append(message.body)
            if message.body == [0]:
                ended.set()
        return True

    receiver = await Connection.open(take, bus.address)
    await receiver.call_bus("RequestName", "su", NAME, 0)
    sender = subprocess.run(
        [sys.executable, "-c", _SEND, str(bus.socket)],
        input=b"".join([*sent, bytes(echo("u", [0])._marshall(False))]),
        check=True,
        timeout=60,
    )
    assert sender.returncode == 0
    rounds: List[int] = []
    while not ended.is_set():
        before = len(bodies)
        await asyncio.sleep(0)
        rounds.append(len(bodies) - before)
    assert await receiver.call_bus("GetId")
    await receiver.close()
    return bodies, rounds


def echo(signature: str, body: List[Any], flags: int = 0) -> Message:
    return Message(
        NAME,
        "/",
        "com.example",
        "Echo",
        signature=signature,
        body=body,
        flags=MessageFlag(flags),
        serial=next(_serials),  # the bus refuses one that waits for its reply
    )


_serials = itertools.count(2)


# Sends its input, and ends when the bus has taken it.
_SEND = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
uid = str(os.geteuid()).encode().hex().encode()
s.sendall(b"\\0AUTH EXTERNAL " + uid + b"\\r\\n")
s.recv(1000)
s.sendall(b"BEGIN\\r\\n")
from dbus_fast.message import Message
bus = "org.freedesktop.DBus"
def ask(member, serial):
    message = Message(bus, "/", bus, member, serial=serial)
    return bytes(message._marshall(False))
s.sendall(ask("Hello", 1) + sys.stdin.buffer.read() + ask("GetId", 3))
answer = b""
while b"\\x05\\1u\\0\\3\\0\\0\\0" not in answer:
    data = s.recv(65536)
    assert data, answer
    answer += data
"""


async def test_a_flood_leaves_time_for_others(private_bus: PrivateBus) -> None:
    # As many as the bus lets wait for a reply.
    flood = [bytes(echo("u", [1])._marshall(False)) for _ in range(120)]
    bodies, rounds = await receive(private_bus, *flood)
    assert bodies == [[1]] * 120 + [[0]]
    assert max(rounds) < 50


async def test_a_flood_without_replies_costs_nothing(
    private_bus: PrivateBus,
) -> None:
    flood = bytes(echo("u", [1], flags=1)._marshall(False)) * 1000
    bodies, _ = await receive(private_bus, flood)
    assert bodies == [[0]]


async def test_large_calls_of_strangers_cost_nothing(
    private_bus: PrivateBus,
) -> None:
    value = [[Variant("y", 1)] * 10_000]
    sent = [bytes(echo("av", value)._marshall(False)) for _ in range(10)]
    assert len(sent[0]) > LONGEST
    bodies, _ = await receive(private_bus, *sent)
    assert bodies == [[0]]


@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        *[(flags, [[1], [0]]) for flags in (2, 4, 6, 0x80)],
        *[(flags, [[0]]) for flags in (3, 5, 7, 0x81)],
    ],
)
async def test_flags_that_dbus_fast_does_not_know(
    private_bus: PrivateBus, flags: int, taken: List[List[Any]]
) -> None:
    sent = bytearray(echo("u", [1])._marshall(False))
    sent[2] = flags
    bodies, _ = await receive(private_bus, bytes(sent))
    assert bodies == taken


async def test_a_killed_bus_fails_calls_at_once(
    private_bus: PrivateBus,
) -> None:
    async with Echo(private_bus):
        client = await Connection.open(address=private_bus.address)
        waiting = asyncio.ensure_future(call(client, "Silent"))
        await call(client, "Echo")
        os.kill(private_bus.pid, signal.SIGKILL)
        with pytest.raises(BusAway, match="lost"):
            await waiting
        await asyncio.wait_for(client.lost(), 5)
        assert not client.is_open
        with pytest.raises(BusAway, match="lost"):
            await call(client, "Echo")
        await client.close()


async def test_a_bus_that_hangs_does_not_hang_us(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_WITHIN", 0.2)
    monkeypatch.setattr(module, "SEND_WITHIN", 0.2)
    client = await Connection.open(address=private_bus.address)
    os.kill(private_bus.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BusAway, match="did not answer within 0.2 s"):
            await Connection.open(address=private_bus.address)
        with pytest.raises((BusAway, BusError)):
            await client.call(
                NAME, "/", "com.example", "X", "s", "x" * 10_000_000,
                within=5,
            )  # fmt: skip
        monkeypatch.setattr(module, "OPEN_WITHIN", 0.01)
        # Until its queue of connections is full, and then, too.
        for _ in range(40):
            with pytest.raises(BusAway):
                await Connection.open(address=private_bus.address)
    finally:
        os.kill(private_bus.pid, signal.SIGCONT)
        await client.close()


@pytest.mark.parametrize("address", ["nonsense", "unix:path=/nowhere/bus"])
async def test_no_bus(address: str) -> None:
    with pytest.raises(BusAway, match="system bus"):
        await Connection.open(address=address)


async def test_no_bus_but_something_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/bus")
        with pytest.raises(BusAway, match="Connection refused"):
            await Connection.open(address=f"unix:path={tmp_path}/bus")


def test_the_address_of_the_system_bus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    assert system_bus_address() == "unix:path=/run/dbus/system_bus_socket"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/x")
    assert system_bus_address() == "unix:path=/x"
