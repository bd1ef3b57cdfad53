"""What server is this: whose requests does it carry, and to whom?

HELLO answers with the server's mode and role, and needs no right.  A server
that does not know it proves nothing.
"""

from __future__ import annotations

import ipaddress
import re
import sys
import time
from pathlib import Path
from typing import Any, List, NamedTuple

from ngcp_task_agent.backends.redis.connection import Link
from ngcp_task_agent.backends.redis.dial import in_file_thread

_LISTENERS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"  # the state of a listening socket there
_PORT = re.compile(rb"(?m)^tcp_port:(\d+)")


class Server(NamedTuple):
    """What is known of a server; empty where it says nothing.

    :ivar mode: ``standalone``, ``cluster`` or ``sentinel``
    :ivar role: ``master`` or ``replica``
    :ivar asked: when, on the monotonic clock
    :ivar is_private: only this machine can reach it
    """

    mode: str = ""
    role: str = ""
    asked: float = 0.0
    is_private: bool = False

    def is_own(self, believed: float) -> bool:
        """Whether only this machine's clients can have sent what it carries.

        :param believed: seconds for which what it has said counts
        """
        is_fresh = time.monotonic() - self.asked < believed
        is_lone_master = (self.mode, self.role) == ("standalone", "master")
        return self.is_private and is_lone_master and is_fresh

    @property
    def is_replica(self) -> bool:
        """Whether it carries its master's requests, and no answer back.

        In a cluster a replica publishes to all.
        """
        return (self.mode, self.role) == ("standalone", "replica")


async def identify(link: Link, timeout: float) -> Server:
    """Ask a server, over a link that has not subscribed.

    :raises LinkError: when the link is lost
    """
    reply = await link.ask("HELLO", 2, timeout=timeout)
    if not isinstance(reply, list):
        return Server(asked=time.monotonic())
    texts = [
        str(word, errors="replace") if isinstance(word, bytes) else ""
        for word in reply
    ]
    facts = dict(zip(texts[::2], texts[1::2]))
    role, mode = facts.get("role", ""), facts.get("mode", "")
    return Server(mode, role, time.monotonic())


async def is_private(link: Link, timeout: float) -> bool:
    """Whether only this machine's clients can reach the server of a link.

    So it is when its port listens on loopback addresses alone.

    :raises LinkError: when the link is lost
    """
    if link.ends:
        ours, theirs = link.ends
        if not ipaddress.ip_address(theirs[0].partition("%")[0]).is_loopback:
            return False
        port = theirs[1]
        # A tunnel to another machine listens here, too; but the server at
        # its end sees other addresses.
        seen = await link.ask("CLIENT", "INFO", timeout=timeout)
        if not _has(seen, b" addr=", ours) or not _has(
            seen, b" laddr=", theirs
        ):
            return False
    else:
        info = await link.ask("INFO", "server", timeout=timeout)
        found = _PORT.search(info) if isinstance(info, bytes) else None
        if not found:
            return False
        port = int(found[1])
        if port == 0:
            return True
    addresses = await in_file_thread(_listeners, port)
    return bool(addresses) and all(map(_is_loopback, addresses))


def _has(reply: Any, key: bytes, end: Any) -> bool:
    host, port = end
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return isinstance(reply, bytes) and key + text.encode() + b" " in reply


def _listeners(port: int) -> List[str]:
    """The addresses that listen on a port, as /proc/net writes them."""
    found = []
    for path in _LISTENERS:
        try:
            lines = path.read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for line in lines:
            _, local, _, state = line.split()[:4]
            address, _, number = local.rpartition(":")
            if state == _LISTEN and int(number, 16) == port:
                found.append(address)
    return found


def _is_loopback(address: str) -> bool:
    """Whether an address is one, which the kernel writes as words of 32 bits.

    Each is in the processor's byte order.
    """
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    found = ipaddress.ip_address(packed)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
