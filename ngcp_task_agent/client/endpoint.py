"""Endpoint: a Redis server, and how to connect to it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Optional

from ngcp_task_agent.backends.redis.dial import (
    Dial,
    describe_server,
    dial_server,
)
from ngcp_task_agent.backends.redis.link import Link, LinkError, OnMessage
from ngcp_task_agent.client.discovery import PASSWORDS, Address
from ngcp_task_agent.client.errors import RedisUnavailable

_NO_PASSWORD = (
    "; give the password in REDISCLI_AUTH, in the URL or in the backend's file"
)
_SPARE_PASSWORD = "; the password was that in REDISCLI_AUTH"
# What a port without TLS makes of a client with TLS (Redis waits for more),
# and the other way round.
_NO_TLS = ("no answer within", "WRONG_VERSION_NUMBER", "closed by", "reset by")
_TLS = ("closed by", "reset by")
_USE_NO_TLS = (
    "; if that port is without TLS, use redis://, or leave 'tls' out of the "
    "backend's file"
)
_USE_TLS = (
    "; if that port wants TLS, use rediss://, or give 'tls' in the backend's "
    "file"
)
# What servers say, old and new ones, that were given one and want none,
_WANTS_NONE = ("without any password", "no password is set")
# or another one.
_WRONG_PASSWORD = ("invalid password", "invalid username-password pair")


@dataclass
class Endpoint:
    """
    :param name: in errors
    :param dial: makes connections
    :param has_tls: None if there is no such choice
    :param has_password: whether ``dial`` gives one
    :param spare: makes connections without a password, for a server that says
        it wants none
    """

    name: str
    dial: Dial
    has_tls: Optional[bool] = None
    has_password: bool = True
    spare: Optional[Dial] = None

    @classmethod
    def of(cls, address: Address) -> Endpoint:
        """Make the endpoint that an address names."""
        options = address.server
        has_tls = spare = None
        if "unix_socket" not in options:
            has_tls = options.get("tls") is not None
        if address.is_password_spare:
            bare = {k: v for k, v in options.items() if k != "password"}
            spare = dial_server(bare)
        name = describe_server(options)
        has_password = bool(options.keys() & PASSWORDS)
        dial = dial_server(options)
        return cls(name, dial, has_tls, has_password, spare)

    async def connect(
        self, timeout: float, take: OnMessage = lambda *_: None
    ) -> Link:
        """Connect within ``timeout`` seconds, if need be without a password.

        :raises LinkError: when that fails
        """
        end = time.monotonic() + timeout
        try:
            return await Link.open(self.dial, timeout, take)
        except LinkError as error:
            wants_none = any(words in str(error) for words in _WANTS_NONE)
            if not self.spare or not wants_none:
                raise
        self.dial = self.spare
        return await Link.open(self.dial, end - time.monotonic(), take)

    def unavailable(self, error: LinkError) -> RedisUnavailable:
        """Say what is wrong, and what may help."""
        refuses = str(error).startswith("refuses ")
        why = f"{error}" if refuses else f"cannot be reached: {error}"
        is_wrong = any(sign in why for sign in _WRONG_PASSWORD)
        if "Authentication required" in why or (
            is_wrong and not self.has_password
        ):
            why = why.rstrip(".") + _NO_PASSWORD
        elif is_wrong and self.spare:
            why = why.rstrip(".") + _SPARE_PASSWORD
        elif self.has_tls and any(sign in why for sign in _NO_TLS):
            why = why.rstrip(".") + _USE_NO_TLS
        elif self.has_tls is False and any(sign in why for sign in _TLS):
            why = why.rstrip(".") + _USE_TLS
        return RedisUnavailable(f"Redis at {self.name} {why}")
