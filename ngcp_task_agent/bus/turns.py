"""Turns: the bus may not keep the event loop busy.

dbus-fast reads as long as there is something to read, and any user of the
machine can send faster than that.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import types
from typing import Any

READS = 100  # in each round of the event loop; a message takes two


class Socket(socket.socket):
    """Has nothing more to read once READS are used up, until the next round.

    The event loop then finds that there is more.
    """

    _left = READS

    def recvmsg(self, *arguments: Any) -> Any:
        if self._left == READS:
            asyncio.get_running_loop().call_soon(self._next_round)
        if not self._left:
            raise BlockingIOError(errno.EAGAIN, "not in this round")
        self._left -= 1
        return super().recvmsg(*arguments)

    def _next_round(self) -> None:
        self._left = READS


def take_turns(module: types.ModuleType) -> None:
    """Let a module's sockets take turns, which it makes by ``socket.socket``.

    No version of dbus-fast lets its users bring a socket of their own.
    """
    names = types.ModuleType("socket")
    vars(names).update(vars(socket), socket=Socket)
    vars(module)["socket"] = names
