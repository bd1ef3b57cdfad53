"""Server: the one that a backend's options name, and what it is.

HELLO answers with its mode and role, and needs no right.  A server that does
not know HELLO proves nothing.
"""

from __future__ import annotations

import functools
import re
import time
from typing import Any, Mapping, Optional

from redis.exceptions import ResponseError

from ngcp_task_agent.backends import listeners
from ngcp_task_agent.backends.base import in_thread
from ngcp_task_agent.backends.redis.dial import (
    Dial,
    describe_server,
    dial_server,
)
from ngcp_task_agent.backends.redis.link import Link, Refused
from ngcp_task_agent.backends.redis.options import PING_INTERVAL
from ngcp_task_agent.logs import journal

LONGEST_CONNECT = 5.0  # seconds
# Ping intervals for which an answer to HELLO is believed.
_BELIEVED = 3
_PORT = re.compile(rb"(?m)^tcp_port:(\d{1,5})\b")


class Server:
    """Shared by the parts of one backend.

    :param name: the backend's, for the journal
    :param dial: makes connections, instead of those that the options name
    :ivar timeout: seconds for a connection attempt, or a reply
    """

    def __init__(
        self, name: str, options: Mapping[str, Any], dial: Optional[Dial]
    ) -> None:
        self.place = describe_server(options)
        self.dial = dial or dial_server(options)
        self.ping_interval = float(options.get("ping_interval", PING_INTERVAL))
        self.timeout = min(2 * self.ping_interval, LONGEST_CONNECT)
        self._name = name
        self._options = options
        self._kind = ""  # its mode and role, as HELLO says them
        self._asked = 0.0
        self._is_private = False
        self._said: dict[str, str] = {}

    @property
    def is_own(self) -> bool:
        """Whether only this machine's clients can have sent its messages:
        others may use its master, or another node of its cluster.
        """
        is_lone_master = self._kind == "standalone master"
        age = time.monotonic() - self._asked
        is_fresh = age < _BELIEVED * self.ping_interval
        return self._is_private and is_lone_master and is_fresh

    @property
    def is_one_way(self) -> bool:
        """Whether it passes on its master's requests, but no answers back, as
        a replica does; in a cluster, replicas publish to all nodes.
        """
        is_allowed = self._options.get("allow_replica")
        return self._kind == "standalone replica" and not is_allowed

    async def identify(self, link: Link) -> None:
        """Ask what it is, over a link that has not subscribed."""
        reply = await link.ask("HELLO", 2, timeout=self.timeout)
        words = [
            str(word, errors="replace") if isinstance(word, bytes) else ""
            for word in (reply if isinstance(reply, list) else ())
        ]
        said = dict(zip(words[::2], words[1::2]))
        self._kind = f"{said.get('mode')} {said.get('role')}"
        self._asked = time.monotonic()
        if said.get("mode") == "sentinel":
            raise Refused(
                "it is a Redis Sentinel, which carries no requests: give the "
                "address of Redis itself"
            )
        role = "replica" if self.is_one_way else ""
        text = "Redis is no replica any more: all requests are taken"
        if role:
            text = (
                "Redis is a replica: only this node's own requests are taken, "
                "as answers reach no client of its master ('allow_replica: "
                "yes' takes all)"
            )
        self.say("role", role, journal.BACKEND_NOTE, text)

    async def find_clients(self, link: Link) -> None:
        """Find out for is_own whether only this machine can reach it: its
        port listens on loopback addresses alone.
        """
        self._is_private = False
        if link.ends:
            ours, theirs = link.ends
            if not listeners.is_loopback(theirs[0]):
                return
            # A tunnel to another machine listens here, too; but the server
            # at its end sees other addresses.
            seen = await link.ask("CLIENT", "INFO", timeout=self.timeout)
            for key, (host, port) in (("addr", ours), ("laddr", theirs)):
                end = describe_server({"host": host, "port": port})
                word = f" {key}={end} ".encode()
                if not isinstance(seen, bytes) or word not in seen:
                    return
            port = theirs[1]
        else:
            info = await link.ask("INFO", "server", timeout=self.timeout)
            found = _PORT.search(info) if isinstance(info, bytes) else None
            if not found:
                return
            port = int(found[1])
        only_loopback = functools.partial(listeners.only_loopback, port)
        self._is_private = port == 0 or await in_thread(only_loopback)

    async def select_database(self, link: Link) -> None:
        number = self._options.get("db", 0)
        if number:
            reply = await link.ask("SELECT", number, timeout=self.timeout)
            if isinstance(reply, ResponseError):
                text = f"Redis has no database {number} ({reply}); "
                text += "pub/sub does not depend on it"
                self.say("database", text, journal.BACKEND_NOTE, text)

    def say(
        self, topic: str, value: str, kind: journal.Kind, text: str
    ) -> None:
        """Log a topic's value, empty at first, if it has changed."""
        if self._said.get(topic, "") != value:
            self._said[topic] = value
            text = f"backend {self._name}: {text}"
            journal.record(kind, text, backend=self._name)
