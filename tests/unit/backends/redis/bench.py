"""A redis backend, and what its tests need."""

from __future__ import annotations

import contextlib
from typing import Any, AsyncIterator, List, Optional

from ngcp_task_agent.backends.base import Arrival
from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.logs import journal
from tests.unit.fakes import Records
from tests.unit.resp import Server

CHANNELS = frozenset({"a", "b"})


class Bench:
    """A backend that listens on CHANNELS, and what it has received."""

    def __init__(self, options: Any, dial: Any = None) -> None:
        self.arrivals: List[Arrival] = []
        self.has_stopped = False
        self.backend = RedisBackend(
            "redis", options, self.arrivals.append, dial=dial
        )

    @property
    def bodies(self) -> List[bytes]:
        return [arrival.body for arrival in self.arrivals]

    async def stop(self, timeout: float) -> None:
        self.has_stopped = True
        await self.backend.stop(timeout)

    def send(self, *messages: str) -> None:
        """Send answers of one message each, to separate requests."""
        for message in messages:
            self.backend.send("fb", [message.encode()], f"ref-{message}")


@contextlib.asynccontextmanager
async def started(
    server: Server, is_there: bool = True, dial: Any = None, **options: Any
) -> AsyncIterator[Bench]:
    """Start a backend; stop it and its server at the end.

    :param is_there: whether the server is started first
    """
    if is_there:
        await server.start()
    bench = Bench({**server.options, **options}, dial)
    try:
        await bench.backend.start(CHANNELS)
        yield bench
    finally:
        if not bench.has_stopped:
            await bench.stop(0)
        await server.stop()


def lost(records: Records) -> List[Optional[str]]:
    """Return the requests whose answers were lost."""
    return [
        getattr(record, "NGCP_TASK_UUID", None)
        for record in records.of(journal.ANSWER_LOST)
    ]
