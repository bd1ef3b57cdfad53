"""Listeners: which sockets of this machine listen on a TCP port."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Iterator, List

import pytest

from ngcp_task_agent.backends.listeners import is_loopback, only_loopback

LISTENERS: List[Any] = [
    pytest.param(["127.0.0.1"], True, id="loopback"),
    pytest.param(["127.1.2.3"], True, id="another-loopback"),
    pytest.param(["::1"], True, id="loopback-6"),
    pytest.param(["127.0.0.1", "::1"], True, id="both"),
    pytest.param(["::ffff:127.0.0.1"], True, id="mapped"),
    pytest.param(["0.0.0.0"], False, id="any"),
    pytest.param(["::"], False, id="any-6"),
    pytest.param(["127.0.0.1", "::"], False, id="loopback-and-any"),
    pytest.param([], False, id="nothing-listens"),
]


@contextlib.contextmanager
def listeners(addresses: List[str]) -> Iterator[int]:
    """Sockets that listen on one port; return the port."""
    port = 0
    with contextlib.ExitStack() as stack:
        # Without an address, it is bound but does not listen.
        for address in addresses or [""]:
            is_6 = ":" in address
            sock = stack.enter_context(
                socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET)
            )
            if is_6:
                sock.setsockopt(
                    socket.IPPROTO_IPV6,
                    socket.IPV6_V6ONLY,
                    not address.startswith("::ffff:"),
                )
            try:
                sock.bind((address, port))
            except OSError as error:
                pytest.skip(f"{address}: {error}")
            port = sock.getsockname()[1]
            if address:
                sock.listen()
        yield port


@pytest.mark.parametrize(("addresses", "expected"), LISTENERS)
def test_only_loopback(addresses: List[str], expected: bool) -> None:
    with listeners(addresses) as port:
        assert only_loopback(port) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.1.2.3", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
