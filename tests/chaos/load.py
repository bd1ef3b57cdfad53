"""The load: clients that request tasks at random moments."""

from __future__ import annotations

import json
import random
import threading
from typing import Any, Collection, Dict, List

import redis

from tests.chaos.tasks import Asking, Request
from tests.parts import CHANNEL, WITHIN, RedisServer

_TWICE = 0.01  # share of requests that are published twice
_TIMEOUT = 10.0  # seconds of a client's connection
_LINES = 30_000  # bytes of a "blob" that ask() requests
_AGAIN = 0.05  # seconds before a client connects again


class Clients:
    """Some clients of one server, each with a thread and a channel.

    :param seed: of their requests; the timing also depends on the machine
    :param rate: requests a second, of all together
    :ivar sent: by uuid; some may have been lost on their way
    """

    def __init__(
        self,
        server: RedisServer,
        seed: int,
        src: str,
        channels: List[str],
        rate: float,
    ) -> None:
        self.sent: Dict[str, Request] = {}
        self._server = server
        self._seed = seed
        self._dice = random.Random(f"{seed}-ask")
        self._src = src
        self._rate = rate / len(channels)
        self._stopped = threading.Event()
        self._channels = channels
        self._threads: List[threading.Thread] = []

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(len(self._channels))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(WITHIN)

    def ask(self, task: str, nodes: Collection[str]) -> str:
        """Send one request to these nodes; return its uuid."""
        asking = Asking(self._dice, self._src, self._channels[0])
        lines = _LINES if task == "blob" else 0
        words = {"blob": [str(_LINES)], "sleep": ["0.2"]}.get(task, [])
        request, message = asking.make(
            task, frozenset(nodes), ",".join(nodes), "done", lines, words
        )
        self.sent[request.uuid] = request
        connection = self._server.connect(socket_timeout=_TIMEOUT)
        connection.publish(CHANNEL, json.dumps(message))
        connection.connection_pool.disconnect()
        return request.uuid

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self._seed}-{number}")
        asking = Asking(dice, self._src, self._channels[number])
        connection = self._server.connect(socket_timeout=_TIMEOUT)
        while not self._stopped.wait(dice.expovariate(self._rate)):
            request, message = asking.next()
            times = 2 if dice.random() < _TWICE else 1
            self.sent[request.uuid] = request
            self._publish(connection, message, times)
        connection.connection_pool.disconnect()

    def _publish(
        self, connection: redis.Redis[bytes], message: Any, times: int
    ) -> None:
        try:
            for _ in range(times):
                connection.publish(CHANNEL, json.dumps(message))
        except redis.RedisError:
            self._stopped.wait(_AGAIN)
