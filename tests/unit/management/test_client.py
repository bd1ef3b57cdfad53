"""What asks the running agent."""

from __future__ import annotations

import asyncio
from typing import Any, List

import pytest

from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.errors import BusAway, BusError
from ngcp_task_agent.management import client, interface
from ngcp_task_agent.management.client import RunningAgent
from tests.bus import PrivateBus


class Refusing:
    """An agent that refuses the first calls, and then lists no jobs."""

    def __init__(self, address: str, error: str, times: int) -> None:
        self._address, self._error, self._left = address, error, times
        self._sending: List[asyncio.Future[None]] = []

    async def __aenter__(self) -> Refusing:
        self._connection = await Connection.open(self._take, self._address)
        name = interface.NAME
        await self._connection.call_bus("RequestName", "su", name, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._sending)
        await self._connection.close()

    def _take(self, message: Any) -> bool:
        from dbus_fast.constants import MessageType
        from dbus_fast.message import Message

        if message.message_type is not MessageType.METHOD_CALL:
            return False
        reply = Message(
            message.sender,
            message_type=MessageType.METHOD_RETURN,
            reply_serial=message.serial,
            signature=interface.JOBS_SIGNATURE,
            body=[[]],
        )
        if self._left:
            self._left -= 1
            reply = Message(
                message.sender,
                message_type=MessageType.ERROR,
                error_name=self._error,
                reply_serial=message.serial,
                signature="s",
                body=["no"],
            )
        step = self._connection.send(reply)
        self._sending.append(asyncio.ensure_future(step))
        return True


async def test_it_asks_again_while_there_is_no_room(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY", 0.01)
    address = private_bus.address
    async with Refusing(address, interface.LIMITS_EXCEEDED, 3):
        async with RunningAgent(address) as agent:
            assert await agent.jobs() == ()


async def test_not_for_ever(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY", 0.01)
    address = private_bus.address
    async with Refusing(address, interface.LIMITS_EXCEEDED, 1000):
        async with RunningAgent(address) as agent:
            with pytest.raises(BusError, match="no"):
                await agent.jobs()


async def test_nor_after_another_refusal(private_bus: PrivateBus) -> None:
    address = private_bus.address
    async with Refusing(address, interface.FAILED, 1):
        async with RunningAgent(address) as agent:
            with pytest.raises(BusError, match="no"):
                await agent.jobs()


async def test_no_agent(private_bus: PrivateBus) -> None:
    async with RunningAgent(private_bus.address) as agent:
        with pytest.raises(BusAway, match="no agent"):
            await agent.jobs()
