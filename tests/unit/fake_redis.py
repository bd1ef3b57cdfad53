"""Redis as fakeredis simulates it, for tests that need no real connection.

It runs no scripts, and some of its versions do not support HELLO: the backend
then publishes at most once.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Callable, Iterable, Sequence

import fakeredis
from redis.asyncio import Redis

from ngcp_task_agent.backends.redis.dial import Dial, dial_like

# Otherwise fakeredis raises errors unknown to redis-py.
_UNKNOWN = ("EVALSHA", "EVAL", "HELLO")


class FakeServer:
    """Each has its own channels."""

    def __init__(self) -> None:
        self._server = fakeredis.FakeServer()

    def client(self, **options: Any) -> Redis[Any]:
        """Return a redis-py client, as a test of another project makes it."""
        # Its name in 1.9.0, which newer versions keep.
        made = importlib.import_module("fakeredis.aioredis").FakeRedis
        client: Redis[Any] = self._make(made, **options)
        return client

    def client_beside(
        self, channel: str, take: Callable[[bytes], None]
    ) -> Redis[Any]:
        """Return a client for a script that runs no other task.

        :param take: called at once with each message that the client publishes
            on the channel; it can publish()
        """
        client = self.client()
        pool = client.connection_pool
        pool.connection_class = _observed(pool.connection_class, channel, take)
        return client

    @property
    def dial(self) -> Dial:
        """Makes connections for a backend."""
        client = self.client()
        pool = client.connection_pool
        pool.connection_class = _without_scripts(pool.connection_class)
        return dial_like(client)

    def publish(self, channel: str, message: bytes) -> int:
        """Publish a message; return how many have received it."""
        with self._make(fakeredis.FakeRedis) as client:
            return int(client.publish(channel, message))

    def _make(self, kind: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            # redis-py complains about what fakeredis passes to it.
            warnings.simplefilter("ignore", DeprecationWarning)
            return kind(server=self._server, **options)


def _without_scripts(kind: Any) -> Any:
    class WithoutScripts(kind):
        def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Any:
            return super().pack_commands(
                ("NO-SUCH-COMMAND",) if command[0] in _UNKNOWN else command
                for command in commands
            )

    return WithoutScripts


def _observed(kind: Any, channel: str, take: Callable[[bytes], None]) -> Any:
    class Observed(kind):
        def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Any:
            self.published = [
                command[2]
                for command in commands
                if command[:2] == ("PUBLISH", channel)
            ]
            return super().pack_commands(commands)

        async def send_packed_command(self, *words: Any, **how: Any) -> None:
            await super().send_packed_command(*words, **how)
            for message in getattr(self, "published", ()):
                take(message)
            self.published = []

    return Observed
