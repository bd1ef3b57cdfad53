"""Slots: how many run at once; the others wait in order."""

from __future__ import annotations

import asyncio
from typing import List

from ngcp_task_agent.requests.slots import Slots
from tests.unit.fakes import until


class Users:
    """Coroutines that hold a slot until leave() names them."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.running: List[int] = []
        self.order: List[int] = []
        self._leave: List[asyncio.Event] = []
        self.tasks: List[asyncio.Task[None]] = []

    def add(self, count: int) -> None:
        for _ in range(count):
            self._leave.append(asyncio.Event())
            number = len(self.tasks)
            self.tasks.append(asyncio.create_task(self._use(number)))

    async def _use(self, number: int) -> None:
        async with self._slots:
            self.running.append(number)
            self.order.append(number)
            try:
                await self._leave[number].wait()
            finally:
                self.running.remove(number)

    async def leave(self, *numbers: int) -> None:
        for number in numbers:
            self._leave[number].set()
        await settle()

    async def end(self) -> None:
        for event in self._leave:
            event.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit() -> None:
    slots = Slots(2)
    users = Users(slots)
    users.add(5)
    await settle()
    assert users.running == [0, 1]
    assert slots.taken == 2
    await users.leave(0)
    assert users.running == [1, 2]
    await users.end()
    assert users.order == [0, 1, 2, 3, 4]
    assert slots.taken == 0


async def test_raised_limit_grants_more() -> None:
    slots = Slots(1)
    users = Users(slots)
    users.add(4)
    await settle()
    slots.limit = 3
    await settle()
    assert slots.limit == 3
    assert users.running == [0, 1, 2]
    await users.end()


async def test_lowered_limit_ends_nothing() -> None:
    slots = Slots(3)
    users = Users(slots)
    users.add(5)
    await settle()
    slots.limit = 1
    await users.leave(0, 1)
    assert users.running == [2]
    await users.leave(2)
    assert users.running == [3]
    await users.end()
    assert slots.taken == 0


async def test_waiter_can_be_cancelled() -> None:
    slots = Slots(1)
    users = Users(slots)
    users.add(3)
    await settle()
    users.tasks[1].cancel()
    await settle()
    await users.leave(0)
    assert users.running == [2]
    await users.end()
    assert slots.taken == 0


async def test_cancelled_at_the_moment_of_its_turn() -> None:
    slots = Slots(1)
    users = Users(slots)
    users.add(3)
    await settle()
    users._leave[0].set()
    # The slot is granted to the second, which has not run yet.
    while users.running:
        await asyncio.sleep(0)
    users.tasks[1].cancel()
    await until(lambda: users.running == [2])
    await users.end()
    assert slots.taken == 0


async def test_slot_is_released_after_an_error() -> None:
    slots = Slots(1)
    try:
        async with slots:
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert slots.taken == 0


async def test_who_gives_up_leaves_the_queue() -> None:
    slots = Slots(1)
    users = Users(slots)
    users.add(4)
    await settle()
    assert not slots.is_free
    users.tasks[2].cancel()
    users.tasks[1].cancel()
    await settle()
    await users.leave(0)
    assert users.running == [3]
    await users.leave(3)
    assert slots.is_free
    assert slots.taken == 0
    await users.end()


async def test_who_gives_up_when_granted_gives_the_slot_on() -> None:
    slots = Slots(1)
    users = Users(slots)
    users.add(3)
    await settle()
    users._leave[0].set()
    while slots.taken and users.running == [0]:
        await asyncio.sleep(0)
    users.tasks[1].cancel()
    await settle()
    assert users.running == [2]
    await users.end()
    assert slots.taken == 0
