"""Tells when processes end: one epoll for all pidfds of an event loop.

The loop's own add_reader() and remove_reader() take five times as long.
"""

from __future__ import annotations

import asyncio
import select
import weakref
from typing import Callable, Dict


class Exits:
    """Calls back when a process ends.

    Only the loop refers to this, through a reader: closing the loop closes the
    epoll.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._callbacks: Dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._call)

    def add(self, pidfd: int, callback: Callable[[], None]) -> None:
        """Call back once when the process ends.

        :raises OSError: when it cannot be watched
        """
        self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)
        self._callbacks[pidfd] = callback

    def discard(self, pidfd: int) -> None:
        """Do not call back any more.  Closing the pidfd does the rest."""
        self._callbacks.pop(pidfd, None)

    def _call(self) -> None:
        for pidfd, _ in self._epoll.poll(0):
            callback = self._callbacks.pop(pidfd, None)
            if callback:
                callback()


_exits: weakref.WeakValueDictionary[asyncio.AbstractEventLoop, Exits] = (
    weakref.WeakValueDictionary()
)


def exits_of(loop: asyncio.AbstractEventLoop) -> Exits:
    """Return the Exits of a loop; make it if there is none.

    :raises OSError: when that is not possible
    """
    exits = _exits.get(loop)
    if not exits:
        exits = _exits[loop] = Exits(loop)
    return exits
