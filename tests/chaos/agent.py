"""An agent in a run: the real daemon, its files and its line to Redis."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

import yaml

from tests.chaos.journal import Journal
from tests.chaos.proxy import Proxy
from tests.chaos.server import PASSWORD, USER, Server
from tests.chaos.tasks import NODES, ROLES, definitions

_PING_INTERVALS = (1, 10, 0.7)  # seconds, one after the other
_SMALL_RESPONSE = "64K"  # of the node that must send chunks
_STOP = 60.0  # seconds that an agent may take to stop
_START = 65536  # bytes of a log that hold its start


class Agent:
    """A daemon with its configuration, its log and its line to Redis.

    :param root: the source tree of the daemon
    :param proxy: its line; None for the unix socket
    :ivar trouble: how it ended, if that was unexpected
    """

    def __init__(
        self,
        node: str,
        root: Path,
        server: Server,
        proxy: Optional[Proxy],
    ) -> None:
        self.node = node
        self.proxy = proxy
        self.folder = server.folder / node
        self.runs = server.folder / f"{node}.runs"
        self.runs.touch()
        self.log = server.folder / f"{node}.log"
        self.journal = Journal(node, self.log)
        self._root = root
        self._server = server
        self._lines: BinaryIO = self.log.open("ab")
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._ping_interval = 0
        self._log_from = 0
        self.trouble: List[str] = []
        for name in ("backends", "tasks"):
            (self.folder / name).mkdir(parents=True)
        agent: Dict[str, Any] = {
            "node": {"name": node, "roles": ROLES[node]},
            "stop_timeout": 3,
        }
        if node == NODES[-1]:
            agent["max_response"] = _SMALL_RESPONSE
        self.write("agent.yml", agent)
        for task in definitions(self.runs):
            self.write(f"tasks/{task['name']}.yml", task)
        self.change_backend()

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        """Return its whole log."""
        return self.log.read_text()

    def write(self, name: str, content: Any) -> Path:
        file = self.folder / name
        part = file.with_suffix(".part")
        part.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content)
        )
        part.rename(file)
        return file

    def change_backend(self) -> None:
        """Replace the backend's file."""
        self._ping_interval += 1
        options: Dict[str, Any] = {
            "type": "redis",
            "username": USER,
            "password": PASSWORD,
            "ping_interval": _PING_INTERVALS[
                self._ping_interval % len(_PING_INTERVALS)
            ],
        }
        if self.proxy:
            options["port"] = self.proxy.port
        else:
            options["unix_socket"] = str(self._server.agents_socket)
        self.write("backends/redis.yml", options)

    def start(self) -> None:
        self._log_from = self.log.stat().st_size
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(self._root / "sbin/ngcp-task-agent")),
                *("--config-dir", str(self.folder)),
                *("--log-level", "debug"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=self._lines,
            env={**os.environ, "PYTHONPATH": str(self._root)},
            start_new_session=True,
        )

    def signal(self, number: int) -> bool:
        """Send a signal if it has started, as systemd does; return whether."""
        with self.log.open("rb") as file:
            file.seek(self._log_from)
            has_started = b"has started" in file.read(_START)
        if has_started and self._process:
            self._process.send_signal(number)
        return has_started

    def note_exit(self, status: int) -> None:
        if status:
            self.trouble.append(f"{self.node} ended with status {status}")

    def stop(self) -> int:
        """Ask it to stop; return its exit status."""
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP)
        finally:
            self.kill()

    def exit_status(self) -> Optional[int]:
        """None while it runs."""
        assert self._process
        return self._process.poll()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def children(self) -> List[str]:
        """Return the pids of its commands, including zombies."""
        found: List[str] = []
        for task in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += task.read_text().split()
        return found

    def close(self) -> None:
        self._lines.close()

    def connections(self) -> List[Dict[str, str]]:
        """Return its connections, as CLIENT LIST shows them."""
        ports = self.proxy.ports() if self.proxy else set()
        found = []
        connection = self._server.connect(socket_timeout=5)
        clients = connection.client_list()
        connection.connection_pool.disconnect()
        for client in clients:
            if client["user"] != USER:
                continue
            host, _, port = client["addr"].rpartition(":")
            is_own = (
                int(port) in ports
                if self.proxy
                else host == str(self._server.socket)
            )
            if is_own:
                found.append(client)
        return found


def commands_of(src: str) -> Iterator[Tuple[int, str]]:
    """List the processes for that client's requests: pid and state."""
    mark = f"NGCP_TASK_SRC={src}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if mark not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        yield int(folder.name), state
