"""Link: one connection to Redis, closed for good at its first error.

Built on redis-py's Connection, which connects, authenticates and speaks the
protocol alike in 4.3.4 and 8.1.  Its layers above, which reconnect by
themselves, differ from version to version and lose messages.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import re
import socket
import ssl
import stat
import sys
import termios
import time
from collections import deque
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Type,
)

import redis
from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from ngcp_task_agent import background

Push = Callable[[Any], None]

CLIENT_NAME = "ngcp-task-agent"
# Messages that are taken in a row: as long as some wait here, their senders
# wait for an answer, while processes are started.
_BURST = 32
_LONGEST_PASSWORD = 4096  # bytes
_RUN = rb"(?m)^run_id:(\w+)"


class LinkError(Exception):
    """The server could not be reached, or refused; says why."""


class Refused(LinkError):
    """It will not be mended by waiting: somebody has to change something."""


class LoginRefused(Refused):
    """The server was reached, and wants another password, or another user."""


def is_for_good(error: ResponseError) -> bool:
    """Whether Redis would refuse it again: a user that may not, say.

    Else it is for a while, such as while a script runs.
    """
    text = str(error).lower()
    return isinstance(error, NoPermissionError) or text.startswith("unknown")


def no_push(reply: Any) -> None:
    """Nothing is pushed to a connection that has not subscribed."""


def is_own_server(options: Mapping[str, Any]) -> bool:
    """Whether the address is one of this machine's alone."""
    if "unix_socket" in options:
        return True
    host = str(options.get("host", "127.0.0.1")).lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "localhost.localdomain")


def describe_server(options: Mapping[str, Any]) -> str:
    """The server's address for the administrator."""
    if "unix_socket" in options:
        return str(options["unix_socket"])
    host, port = options.get("host", "127.0.0.1"), options.get("port", 6379)
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


class Link:
    """A connection with a task that reads all that comes.

    :param on_push: takes what Redis sends without having been asked
    :ivar closed: done when the connection is lost; its result says why
    :ivar is_refused: it is lost by refuse(), or for want of a login
    :ivar heard: when anything came last, on the monotonic clock
    :ivar server: the name of this run of the server, if identify() found it
    :ivar id: the number of this connection in that run
    :ivar anonymous: why it found none
    """

    def __init__(self, connection: Any, on_push: Push) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.is_refused = False
        self.heard = time.monotonic()
        self.server: Optional[bytes] = None
        self.anonymous = "it does not tell its run_id"
        self.id = 0
        self._connection = connection
        self._on_push = on_push
        self._asked: Deque[asyncio.Future[Any]] = deque()
        self._reader = background.start(self._read())

    @classmethod
    async def open(
        cls, options: Mapping[str, Any], on_push: Push, timeout: float
    ) -> Link:
        """Connect and authenticate.

        :raises LinkError: also when it takes longer than ``timeout`` seconds
        """
        try:
            return await asyncio.wait_for(
                cls._open(options, on_push, timeout), timeout
            )
        except asyncio.TimeoutError:
            raise LinkError(f"no answer within {timeout:g} s") from None

    @classmethod
    async def _open(
        cls, options: Mapping[str, Any], on_push: Push, timeout: float
    ) -> Link:
        connection = None
        try:
            password = await asyncio.to_thread(_read_files, options)
            connection = _connection(options, password)
            await connection.connect()
        except asyncio.CancelledError:
            await _disconnect(connection)
            raise
        except Exception as error:
            # Files of TLS that are none, names that cannot be looked up,
            # servers that speak something else.
            await _disconnect(connection)
            raise _link_error(error) from None
        link = cls(connection, on_push)
        try:
            # Not redis-py's: who may not name itself may do all the rest.
            await link.call([("CLIENT", "SETNAME", CLIENT_NAME)], timeout)
        except asyncio.CancelledError:
            await link.close("it took too long")
            raise
        if link.closed.done():
            await link.close("")
            kind = LoginRefused if link.is_refused else LinkError
            raise kind(link.closed.result())
        return link

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not acknowledged."""
        writer = self._connection._writer
        sock = writer.get_extra_info("socket") if writer else None
        if sock is None:
            return 0
        waiting = bytearray(4)
        try:
            fcntl.ioctl(sock, termios.TIOCOUTQ, waiting)
        except (OSError, ValueError):
            return 0  # it is closed
        in_kernel = int.from_bytes(waiting, sys.byteorder)
        return in_kernel + int(writer.transport.get_write_buffer_size())

    async def identify(self, timeout: float) -> None:
        """Learn ``server`` and ``id``, if the server tells them.

        :raises LinkError: when the link is closed, or the server refuses it
            for a while
        """
        replies = await self.call(
            [("CLIENT", "ID"), ("INFO", "server")], timeout
        )
        if len(replies) < 2:
            raise LinkError(self.closed.result())
        number, facts = replies
        run = isinstance(facts, bytes) and re.search(_RUN, facts)
        if run and isinstance(number, int):
            self.server, self.id = run[1], number
        for reply in replies:
            if isinstance(reply, ResponseError):
                self.anonymous = str(reply)
                if not is_for_good(reply):
                    raise LinkError(str(reply))

    async def send(self, *command: Any) -> None:
        """Send a command whose answer, if any, is a push.

        :raises LinkError: when the link is closed
        """
        await self._send([command])

    async def call(
        self, commands: Sequence[Sequence[Any]], timeout: float
    ) -> List[Any]:
        """Send commands at once and collect their replies.

        Error replies are returned as exceptions.  There are fewer replies
        than commands when the link is lost before the last; then nobody
        knows whether Redis has carried out the others.

        :raises LinkError: when nothing was sent, as the link is closed
        """
        loop = asyncio.get_running_loop()
        asked = [loop.create_future() for _ in commands]
        self._asked.extend(asked)
        # No wait_for(): its extra task would delay what is sent.
        deadline = loop.call_later(
            timeout, self.give_up, f"no answer within {timeout:g} s"
        )
        try:
            await self._send(commands)
            events: List[asyncio.Future[Any]] = [asked[-1], self.closed]
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            deadline.cancel()
        return [reply.result() for reply in asked if reply.done()]

    def refuse(self, reason: str) -> None:
        """Take the link for closed; whoever waits on it closes it."""
        self.is_refused = True
        self._end(reason)

    def give_up(self, reason: str) -> None:
        """End every wait for Redis to take or to answer something."""
        self._end(reason)
        _abort(self._connection)

    async def close(self, reason: str) -> None:
        """Close at once, whatever is still on its way."""
        self._end(reason)
        await background.end(self._reader)
        await _disconnect(self._connection)

    async def _send(self, commands: Sequence[Sequence[Any]]) -> None:
        if self.closed.done():
            raise LinkError(self.closed.result())
        try:
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(
                packed, check_health=False
            )
        except (RedisError, OSError) as error:
            # Some of it may have been sent: the caller finds no replies.
            self._end(_why(error))

    async def _read(self) -> None:
        pushes = 0
        try:
            while True:
                reply: Any
                try:
                    reply = await self._connection.read_response()
                except ResponseError as error:
                    reply = error
                self.heard = time.monotonic()
                if self._asked:
                    self._asked.popleft().set_result(reply)
                else:
                    self._on_push(reply)
                    pushes += 1
                    if pushes % _BURST == 0:
                        # What is already here must not starve the others.
                        await asyncio.sleep(0)
        except Exception as error:
            # Besides lost connections: whatever else a server, or what
            # pretends to be one, makes of redis-py's parsers.
            self.is_refused |= isinstance(error, AuthenticationError)
            self._end(_why(error))
            await _disconnect(self._connection)

    def _end(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)


_REFUSED = (ResponseError, AuthenticationError, ssl.SSLError)
_REFUSALS = (*_REFUSED, OSError)


def _connection(options: Mapping[str, Any], password: Any) -> Any:
    """A connection of redis-py for a backend's options, not yet connected."""
    kind: Type[Any]
    keys: Dict[str, Any] = {
        "username": options.get("username"),
        "password": password,
        # Deadlines are the caller's: redis-py's make an idle subscriber
        # reconnect, or fail, depending on its version.
        "socket_timeout": None,
    }
    if "unix_socket" in options:
        kind = UnixDomainSocketConnection
        keys["path"] = options["unix_socket"]
    else:
        kind = Connection
        keys["host"] = options.get("host", "127.0.0.1")
        keys["port"] = options.get("port", 6379)
        keys["socket_keepalive"] = True
    tls = options.get("tls")
    if tls is not None:
        kind = SSLConnection
        keys.update(
            ssl_cert_reqs="required",
            ssl_check_hostname=True,
            ssl_ca_certs=tls.get("ca"),
            ssl_certfile=tls.get("cert"),
            ssl_keyfile=tls.get("key"),
        )
    if int(redis.__version__.partition(".")[0]) >= 5:
        # With version 3 messages come in another form.
        keys["protocol"] = 2
    return kind(**keys)


def _read_files(options: Mapping[str, Any]) -> Any:
    """The password, if any; blocks.

    Its file is read again at each connection.

    :raises Refused: also for files of TLS that are none
    """
    for path in options.get("tls", {}).values():
        _check_file(path)
    if "password_file" not in options:
        return options.get("password")
    path = options["password_file"]
    _check_file(path)
    with open(path, "rb") as file:
        content = file.read(_LONGEST_PASSWORD + 1)
    if len(content) > _LONGEST_PASSWORD:
        raise Refused(f"{path} is larger than {_LONGEST_PASSWORD} bytes")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8") from None


def _check_file(path: str) -> None:
    """A pipe would be waited for without end, a device never ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Refused(f"{path} is not a file")


async def _disconnect(connection: Any) -> None:
    """Close a connection without waiting for what it still has to send."""
    _abort(connection)
    if connection is not None:
        try:
            await asyncio.wait_for(connection.disconnect(), 1)
        except (RedisError, OSError, asyncio.TimeoutError):
            pass


def _abort(connection: Any) -> None:
    """Drop the socket: a polite close waits for a server that is stalled."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()


def _link_error(error: Exception) -> LinkError:
    """The error of a connection that cannot be made."""
    if isinstance(error, LinkError):
        return error
    if isinstance(error, (ResponseError, AuthenticationError)):
        return LoginRefused(_why(error))
    cause = error.__cause__ or error.__context__
    # What Redis answers, files that are not there, certificates; or what
    # redis-py has made of them.
    if isinstance(error, _REFUSALS) or isinstance(cause, _REFUSED):
        return Refused(_why(error))
    return LinkError(_why(error))


def _why(error: BaseException) -> str:
    """An error in words.

    redis-py wraps the system's errors in texts such as "Error 111 connecting
    to host:6379. 111.", or, for a wrong certificate, "Error 1 ... 1.".
    """
    cause = error.__cause__ or error.__context__
    if isinstance(error, RedisError) and isinstance(cause, OSError):
        return _why(cause)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        named = f" ({error.filename})" if error.filename else ""
        return f"{os.strerror(error.errno or 0)}{named}"
    return str(error) or type(error).__name__
