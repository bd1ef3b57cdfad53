"""The Redis of a run, which can be stalled, paused and restarted."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

import redis

from tests.parts import WITHIN, RedisServer

FEEDBACK = "chaos-"  # prefix of all feedback channels
USER = "agent"
PASSWORD = "secret1"  # the agents' user


def rights(root: Path) -> List[str]:
    """Return the rights that the manual page gives the agents' user."""
    page = (root / "man" / "ngcp-task-agent.8").read_text()
    (line,) = re.findall(rf"(?m)^user {USER} (.*)", page)
    text: str = line.replace("\\", "").replace("&fb_*", f"&{FEEDBACK}*")
    return text.split()


class Server(RedisServer):
    """A Redis that agents find only after open().

    :ivar agents_socket: for the agents
    :ivar is_stopped: by SIGSTOP
    """

    def __init__(
        self, folder: Path, user: List[str], stock_limits: bool
    ) -> None:
        limits: Tuple[str, ...] = ()
        if not stock_limits:
            limits = ("--client-output-buffer-limit", "pubsub", "0", "0", "0")
        super().__init__(
            folder,
            *("--logfile", str(folder / "redis.log")),
            *("--maxmemory-policy", "noeviction"),
            *("--enable-protected-configs", "yes"),
            *limits,
            *("--user", USER, *user),
        )
        self.folder = folder
        self.agents_socket = folder / "agents.sock"
        self.is_stopped = False
        self._paused_until = 0.0

    @property
    def is_up(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def holds_commands(self) -> bool:
        """Whether it would not answer now."""
        return self.is_stopped or time.monotonic() < self._paused_until

    def connect(self, **options: Any) -> redis.Redis[bytes]:
        # Newer versions of redis-py retry.
        return super().connect(**{"retry": None, **options})

    def open(self) -> None:
        self.socket.rename(self.agents_socket)

    def command(self, *words: Any, within: float = 5.0) -> Any:
        """Send a command; return the reply.

        :raises redis.RedisError: as redis-py does
        """
        connection = self.connect(socket_timeout=within)
        try:
            return connection.execute_command(*words)
        finally:
            connection.connection_pool.disconnect()

    def pause(self, seconds: float, what: str) -> None:
        """CLIENT PAUSE ``what``: ALL or WRITE."""
        self.command("CLIENT", "PAUSE", int(seconds * 1000), what)
        if what == "ALL":
            self._paused_until = time.monotonic() + seconds

    def stall(self) -> None:
        self.signal(signal.SIGSTOP)
        self.is_stopped = True

    def go_on(self) -> None:
        if self.is_stopped:
            self.signal(signal.SIGCONT)
        self.is_stopped = False

    def end(self, dump: Optional[bool]) -> None:
        """Kill it; or shut it down with or without a dump, if not None."""
        if dump is None or self.holds_commands:
            self.kill()
        else:
            with contextlib.suppress(redis.RedisError):
                word = "SAVE" if dump else "NOSAVE"
                self.command("SHUTDOWN", word, "NOW", "FORCE", within=WITHIN)
            self.stop()
        self.is_stopped = False
        self._paused_until = 0.0
