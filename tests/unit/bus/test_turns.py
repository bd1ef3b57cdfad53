"""A flood on the bus leaves time for the rest of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from ngcp_task_agent.bus.connection import Connection
from ngcp_task_agent.bus.turns import READS
from tests.bus import PrivateBus
from tests.unit.fakes import until

CALLS = 5 * READS


async def test_few_messages_in_each_round(private_bus: PrivateBus) -> None:
    taken = most = 0

    def take(message: Any) -> bool:
        nonlocal taken
        taken += message.member == "Flood"
        return True

    async def watch() -> None:
        nonlocal most
        before = 0
        while taken < CALLS:
            most, before = max(most, taken - before), taken
            await asyncio.sleep(0)

    receiver = await Connection.open(take, private_bus.address)
    sender = await Connection.open(address=private_bus.address)
    from dbus_fast.constants import MessageFlag
    from dbus_fast.message import Message

    call = Message(
        receiver._bus.unique_name,
        "/x",
        "x.y",
        "Flood",
        flags=MessageFlag.NO_REPLY_EXPECTED,
        serial=9,
    )
    # All of it waits for the receiver, which does not read meanwhile.
    flood = bytes(call._marshall(False)) * CALLS
    await asyncio.get_running_loop().sock_sendall(sender._bus._sock, flood)
    watching = asyncio.ensure_future(watch())
    await until(lambda: taken == CALLS)
    await watching
    assert 0 < most <= READS
    # It can still be used.
    assert await receiver.call_bus("GetId")
    for connection in (sender, receiver):
        await connection.close()
