"""A Redis cluster on this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, List

from tests.parts import RedisServer, free_port, wait_for

_SLOTS = 16384
# Each node's port for the cluster bus is higher by this.
_BUS = 10000
#: A setting of a master: do not wait for replicas to copy its data.
AT_ONCE = ("repl-diskless-sync-delay", "0")


def command(server: RedisServer, *words: Any, **options: Any) -> Any:
    """Send one command; return the reply, or raise the error.

    :param options: of the connection
    """
    connection = server.connect(**options)
    try:
        return connection.execute_command(*words)
    finally:
        connection.connection_pool.disconnect()


def node(folder: Path) -> RedisServer:
    """Make a node that is not started and has not joined a cluster."""
    folder.mkdir()
    server = RedisServer(folder, "--cluster-enabled", "yes")
    while not _has_bus(server.port):
        server.port = free_port()
    return server


def _has_bus(port: int) -> bool:
    if port + _BUS > 65535:
        return False
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port + _BUS))
        except OSError:
            return False
    return True


class Cluster:
    """Three masters, and a replica of the first one.

    :ivar nodes: in that order
    """

    def __init__(self, folder: Path) -> None:
        self.nodes = [node(folder / f"node{n}") for n in range(4)]
        self.masters = self.nodes[:3]
        self.replica = self.nodes[3]

    def start(self) -> None:
        """Start it, and wait until all nodes are connected."""
        for server in self.nodes:
            server.start()
        bounds = [n * _SLOTS // 3 for n in range(4)]
        for number, server in enumerate(self.masters):
            slots = range(bounds[number], bounds[number + 1])
            command(server, "CLUSTER", "ADDSLOTS", *slots)
        first, *others = self.nodes
        for server in others:
            command(first, "CLUSTER", "MEET", "127.0.0.1", server.port)
        wait_for(lambda: all(map(self._is_connected, self.nodes)))
        command(first, "CONFIG", "SET", *AT_ONCE)
        master = command(first, "CLUSTER", "MYID")
        command(self.replica, "CLUSTER", "REPLICATE", master)
        wait_for(lambda: all(map(_is_ok, self.nodes)))
        wait_for(self.replica.is_linked)

    def _is_connected(self, server: RedisServer) -> bool:
        lines: List[bytes] = command(server, "CLUSTER", "NODES").splitlines()
        return len(lines) == len(self.nodes) and all(
            b" connected" in line and b"handshake" not in line
            for line in lines
        )

    def stop(self) -> None:
        for server in self.nodes:
            server.stop()


def _is_ok(server: RedisServer) -> bool:
    return b"cluster_state:ok" in command(server, "CLUSTER", "INFO")
