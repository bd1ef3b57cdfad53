"""What floods an agent, and what shows whether it still answers others."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Optional, Type

from tests.parts import WITHIN, Client, Daemon, RedisServer

# Seconds after which clients in the field no longer wait for "accepted".
PATIENCE = 2.0

# 2**60 steps to find out that it does not match.
REGEX_BOMB = "a" * 60
REGEX_SCHEMA: Dict[str, Any] = {"properties": {"n": {"pattern": "^(a|a)*b$"}}}
# They cannot be sorted, and the last is the fault.
UNIQUE_BOMB = [None, *range(700), 699]
UNIQUE_SCHEMA: Dict[str, Any] = {"properties": {"n": {"uniqueItems": True}}}

# As much text and as many objects as a message may have: Python's values need
# some 15 times the memory of the text.
WIDE = [{"": n} for n in range(10_000, 59_000)] + [*range(10_000, 55_000)]
_WIDE_TEXT = json.dumps(WIDE)


def wide(request: Dict[str, Any]) -> str:
    """Return a request's message, with WIDE as its data; soon."""
    text = json.dumps({**request, "data": "WIDE"})
    return text.replace('"WIDE"', _WIDE_TEXT)


class Pings:
    """Sends requests for the task ``ping`` at fixed times, in a thread.

    :param every: seconds between them
    :param within: seconds that the last ones may take
    :ivar seconds: how long each waited for ``accepted``; endless if in vain
    """

    def __init__(
        self,
        server: RedisServer,
        every: float = 0.05,
        within: float = WITHIN,
    ) -> None:
        self._client = Client(server)
        self._every, self._within = every, within
        self._sent: Dict[str, float] = {}
        self._accepted: Dict[str, float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pings:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._client.close()

    @property
    def seconds(self) -> List[float]:
        return [
            self._accepted.get(ref, math.inf) - sent
            for ref, sent in self._sent.items()
        ]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._is_over.is_set():
            if time.monotonic() >= due:
                sent = time.monotonic()
                self._sent[self._client.send("ping")["uuid"]] = sent
                due += self._every
            self._hear(max(0.001, due - time.monotonic()))
        end = time.monotonic() + self._within
        while len(self._accepted) < len(self._sent):
            if time.monotonic() > end:
                return
            self._hear(0.1)

    def _hear(self, within: float) -> None:
        with contextlib.suppress(AssertionError):
            response = self._client.next(within)
            if response["status"] == "accepted":
                self._accepted[response["ref"]] = time.monotonic()


def flood(
    client: Client,
    messages: Iterable[Any],
    pause: float = 0,
    text: Callable[[Any], str] = json.dumps,
) -> List[str]:
    """Publish requests, with seconds between them; return their uuids.

    :param text: makes the message
    """
    sent = []
    for message in messages:
        client.publish(text(message))
        sent.append(message["uuid"])
        if pause:
            time.sleep(pause)
    return sent


def endings(client: Client, refs: Iterable[str]) -> List[Dict[str, Any]]:
    """Wait for the ending of each of these requests."""
    missing = set(refs)
    found = []
    while missing:
        ending = client.ending()
        if ending["ref"] in missing:
            missing.discard(ending["ref"])
            found.append(ending)
    return found


def memory(daemon: Daemon, field: str = "VmHWM") -> int:
    """Return the most megabytes that it has had, or ``VmRSS`` for now."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(rf"(?m)^{field}:\s+(\d+) kB$", status)
    assert found
    return int(found[1]) // 1024
