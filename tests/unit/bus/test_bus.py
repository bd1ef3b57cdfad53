"""The bus that is there again after it was away."""

from __future__ import annotations

import asyncio
from typing import List

import pytest

from ngcp_task_agent.bus import bus as module
from ngcp_task_agent.bus.bus import AT_ONCE, Bus, BusUser, system_bus
from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusAway
from tests.bus import PrivateBus

DBUS = "org.freedesktop.DBus"


class User(BusUser):
    def __init__(self) -> None:
        self.events: List[str] = []
        self.is_up = asyncio.Event()
        self.is_away = asyncio.Event()

    async def connected(self, connection: Connection) -> None:
        await connection.call_bus("GetId")
        self.events.append("connected")
        self.is_up.set()

    def away(self, why: str) -> None:
        self.events.append(why)
        self.is_away.set()


async def get_id(bus: Bus, within: float = 5.0) -> str:
    (found,) = await bus.call(
        DBUS, "/org/freedesktop/DBus", DBUS, "GetId", within=within
    )
    return f"{found}"


async def test_it_comes_back(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.05)
    bus, user = Bus(private_bus.address), User()
    await bus.join(user)
    before = await get_id(bus)
    later = User()
    await bus.join(later)
    assert later.events == ["connected"]
    private_bus.stop()
    await asyncio.wait_for(user.is_away.wait(), 5)
    with pytest.raises(BusAway, match="away"):
        await get_id(bus, within=0.1)
    user.is_up.clear()
    private_bus.start()
    await asyncio.wait_for(user.is_up.wait(), 5)
    assert await get_id(bus) != before
    for one in (user, later):
        assert one.events[:2] == [
            "connected",
            "the connection to the system bus was lost",
        ]
        assert one.events[-1] == "connected"
    await bus.stop()


async def test_without_a_bus_its_users_know_why() -> None:
    bus, user = Bus("unix:path=/nowhere/bus"), User()
    await bus.join(user)
    await asyncio.wait_for(user.is_away.wait(), 5)
    assert "No such file" in user.events[0]
    with pytest.raises(BusAway):
        await get_id(bus, within=0.01)
    await bus.stop()


async def test_not_too_many_calls_at_once(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = under_way = 0
    call = Connection.call

    async def counted(*arguments: object, **more: object) -> object:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        try:
            return await call(*arguments, **more)  # type: ignore[arg-type]
        finally:
            under_way -= 1

    bus = Bus(private_bus.address)
    await bus.join(User())
    await get_id(bus)
    monkeypatch.setattr(Connection, "call", counted)
    await asyncio.gather(*(get_id(bus) for _ in range(50)))
    assert most == AT_ONCE
    await bus.stop()


async def test_one_bus_for_a_loop() -> None:
    assert system_bus() is system_bus()
