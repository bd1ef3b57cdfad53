"""Dial: how connections of redis-py to one server are made.

The host name is looked up, and the files of the password and of TLS are read,
for each connection, in threads.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Mapping, Optional

from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from ngcp_task_agent.backends.redis.replies import ReplyParser

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Makes a connection, not yet connected: to this address of the host, or to
#: any of its addresses.
Dial = Callable[[Optional[str]], Awaitable[Any]]

LONGEST_PASSWORD = 4096  # bytes
NEXT_ADDRESS = 0.25  # seconds until another address is tried too (RFC 8305)

# Apart from all others: each attempt to connect may wait for a slow disk.
_readers = ThreadPoolExecutor(4, "files")

# Deadlines and retries are ours, whatever redis-py has by default.
_SIMPLE: dict[str, Any] = {
    "socket_timeout": None,
    "retry": None,
    "parser_class": ReplyParser,
}
if importlib.util.find_spec("redis._parsers"):
    # redis-py 5 and newer speak two versions of the protocol; with version 3
    # messages come in another form.
    _SIMPLE["protocol"] = 2


async def _in_reader(read: Callable[..., Any], *arguments: Any) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_readers, read, *arguments)


def describe_server(options: Mapping[str, Any]) -> str:
    """The server's address for the administrator."""
    if "unix_socket" in options:
        return str(options["unix_socket"])
    host, port = options.get("host", "127.0.0.1"), options.get("port", 6379)
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def dial_server(options: Mapping[str, Any]) -> Dial:
    """Dial the server that a backend's options name."""

    async def dial(address: Optional[str]) -> Any:
        password = options.get("password")
        if "password_file" in options or options.get("tls"):
            password = await _in_reader(_read, options)
        user = options.get("username")
        keys = {**_SIMPLE, "username": user, "password": password}
        if "unix_socket" in options:
            path = options["unix_socket"]
            return UnixDomainSocketConnection(path=path, **keys)
        keys["host"] = options.get("host", "127.0.0.1")
        keys["port"] = options.get("port", 6379)
        tls = options.get("tls")
        if tls is None:
            connection = _Tcp(**keys)
        else:
            connection = _Tls(
                **keys,
                ssl_cert_reqs="required",
                ssl_check_hostname=True,
                ssl_ca_certs=tls.get("ca"),
                ssl_certfile=tls.get("cert"),
                ssl_keyfile=tls.get("key"),
            )
        connection.address = address
        return connection

    return dial


def dial_like(client: Redis[Any]) -> Dial:
    """Dial the server of a redis-py client, by connections of its kind.

    :raises TypeError: for a client that cannot be used
    """
    from redis.asyncio import Redis  # loads all of redis-py

    if not isinstance(client, Redis):
        raise TypeError("redis must be a redis.asyncio.Redis")
    pool = client.connection_pool
    if pool.connection_kwargs.get("decode_responses"):
        raise TypeError("redis must not decode_responses: messages are bytes")
    keys = {**pool.connection_kwargs, **_SIMPLE}
    if "maint_notifications_config" in keys:
        # redis-py 7 and newer have them with protocol 3 alone.
        keys["maint_notifications_config"] = None

    async def dial(address: Optional[str]) -> Any:
        return pool.connection_class(**keys)

    return dial


class _Tcp(Connection):  # type: ignore[misc]
    """Tries a name's addresses side by side; reads TLS files in a thread."""

    address: Optional[str] = None  # the one to connect to, if it is known

    async def _connect(self) -> None:
        tls: dict[str, Any] = {}
        context = getattr(self, "ssl_context", None)
        if context is not None:
            tls["ssl"] = await _in_reader(context.get)
            tls["server_hostname"] = self.host
        self._reader, self._writer = await asyncio.open_connection(
            self.address or self.host,
            self.port,
            happy_eyeballs_delay=NEXT_ADDRESS,
            **tls,
        )
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class _Tls(_Tcp, SSLConnection):  # type: ignore[misc]
    pass


def _read(options: Mapping[str, Any]) -> Any:
    """Return the password, if any; check that all files are files."""
    secret = options.get("password_file")
    for path in (secret, *options.get("tls", {}).values()):
        # A pipe could be waited for without end, a device never ends.
        if path and not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path} is not a file")
    if not secret:
        return options.get("password")
    with open(secret, "rb") as file:
        content = file.read(LONGEST_PASSWORD + 1)
    if len(content) > LONGEST_PASSWORD:
        raise ValueError(f"{secret} is larger than {LONGEST_PASSWORD} bytes")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{secret} is not UTF-8") from None
