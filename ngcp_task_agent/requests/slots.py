"""Slots: how many may run at once; the others wait in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class Slots:
    """``async with slots:`` holds one of ``limit`` slots.

    Unlike a semaphore's, the limit can change; after it is lowered, slots are
    granted only when fewer are taken.  Each round of the event loop grants one
    slot: its holder starts a process, which takes as long as to accept several
    requests.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Any of thousands can give up: a deque would search for it.
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._has_granted = False  # in this round
        self.taken = 0

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._grant()

    async def __aenter__(self) -> None:
        if self.is_free:
            self._take()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The slot was granted at the moment of the cancellation.
                self._release()
            else:
                # Else those that give up would pile up behind one that runs.
                self._waiters.pop(turn, None)
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        self._release()

    @property
    def is_free(self) -> bool:
        """Whether a slot can be had now, without waiting."""
        return not self._has_granted and self._has_room and not self._waiters

    @property
    def _has_room(self) -> bool:
        return self.taken < self._limit

    def _release(self) -> None:
        self.taken -= 1
        self._grant()

    def _grant(self) -> None:
        """Grant the next waiter a slot, unless this round has granted one."""
        while self._waiters and self._has_room and not self._has_granted:
            turn, _ = self._waiters.popitem(last=False)
            if not turn.done():
                self._take()
                turn.set_result(None)

    def _take(self) -> None:
        self.taken += 1
        self._has_granted = True
        asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._has_granted = False
        self._grant()
