"""Listeners: which sockets of this machine listen on a TCP port."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"  # the state of a listening socket there


def is_loopback(address: str) -> bool:
    """Return whether this is a loopback address; it may name a zone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def only_loopback(port: int) -> bool:
    """Return whether a port listens, and only on loopback addresses.

    Reads files: call it in a thread.
    """
    found = []
    for path in _TABLES:
        try:
            lines = path.read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for line in lines:
            _, local, _, state = line.split()[:4]
            address, _, number = local.rpartition(":")
            if state == _LISTEN and int(number, 16) == port:
                found.append(_parse(address).is_loopback)
    return bool(found) and all(found)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address as the kernel writes it: as words of 32 bits.

    Each is in the processor's byte order.
    """
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    found = ipaddress.ip_address(packed)
    return getattr(found, "ipv4_mapped", None) or found
