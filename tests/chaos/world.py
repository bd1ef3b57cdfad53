"""The world of a run: Redis, the agents, and the lines between them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Set, Tuple

import redis
import yaml

from tests.chaos.journal import Journal
from tests.chaos.observer import Observer
from tests.chaos.proxy import Proxies, Proxy
from tests.chaos.tasks import NODES, ROLES, definitions
from tests.parts import CHANNEL, WITHIN, RedisServer, wait_for

FEEDBACK = "chaos-"  # how all feedback channels begin
USER = "agent"
PING_INTERVALS = (1, 10, 0.7)  # seconds

_PASSWORD = "secret1"
_SMALL_RESPONSE = "64K"  # of the node that has to send chunks
_STOP = 60.0  # seconds that an agent may take to stop
_START = 65536  # bytes of a log in which the start is


def rights(root: Path) -> List[str]:
    """What the manual page lets the agents' user do."""
    page = (root / "man" / "ngcp-task-agent.8").read_text()
    (line,) = re.findall(rf"(?m)^user {USER} (.*)", page)
    text = line.replace("\\", "").replace("&fb_*", f"&{FEEDBACK}*")
    return [*text.split(), *_RIGHTS]


_RIGHTS = (
    "~ngcp-task-agent:* +eval +evalsha +get +set +publish +subscribe "
    "+unsubscribe +ping +select +info +client|setname"
).split()


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

    def open(self) -> None:
        self.socket.rename(self.agents_socket)

    def command(self, *words: Any, within: float = 5.0) -> Any:
        """The answer to a command.

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
        """Kill it, or shut it down with or without a dump if not None."""
        if dump is None or self.holds_commands:
            self.kill()
        else:
            with contextlib.suppress(redis.RedisError):
                word = "SAVE" if dump else "NOSAVE"
                self.command("SHUTDOWN", word, "NOW", "FORCE", within=WITHIN)
            self.stop()
        self.is_stopped = False
        self._paused_until = 0.0


class Agent:
    """A daemon with its configuration, its log and its line to Redis.

    :param root: of the tree whose daemon it is
    :param proxy: its line; None for the unix socket
    :ivar trouble: how it ended, where that was not as it should be
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

    def write(self, name: str, content: Any) -> Path:
        file = self.folder / name
        part = file.with_suffix(".part")
        part.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content)
        )
        part.rename(file)
        return file

    def change_backend(self) -> None:
        """Make the backend's file another one."""
        self._ping_interval += 1
        options: Dict[str, Any] = {
            "type": "redis",
            "username": USER,
            "password": _PASSWORD,
            "ping_interval": PING_INTERVALS[
                self._ping_interval % len(PING_INTERVALS)
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

    def signal(self, number: int) -> None:
        """Only once it has started, as systemd does."""
        with self.log.open("rb") as file:
            file.seek(self._log_from)
            if b"has started" not in file.read(_START):
                return
        if self.is_alive and self._process:
            self._process.send_signal(number)

    def note_exit(self, status: int) -> None:
        if status:
            self.trouble.append(f"{self.node} ended with status {status}")

    def stop(self) -> int:
        """Ask it to end; its exit status."""
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
        """The pids of its commands, zombies too."""
        found: List[str] = []
        for task in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += task.read_text().split()
        return found

    def close(self) -> None:
        self._lines.close()

    def connections(self) -> List[Dict[str, str]]:
        """Its own, as CLIENT LIST shows them."""
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


class World:
    """All that a run consists of, but for its clients.

    :ivar restarts: how often the server was started again
    :ivar restarted: nodes whose agent was
    :ivar left: how many commands killed agents have left
    """

    def __init__(self, folder: Path, root: Path, stock_limits: bool) -> None:
        user = [*rights(root)]
        self.user = user
        self.server = Server(folder, user, stock_limits)
        self._proxies = Proxies()
        self.agents: List[Agent] = []
        self.observers: List[Observer] = []
        self.restarts = 0
        self.restarted: Set[str] = set()
        self.left = 0
        for number, node in enumerate(NODES):
            proxy = None
            if number:
                proxy = Proxy(self._proxies, self.server.port)
            self.agents.append(Agent(node, root, self.server, proxy))

    def observe(self, *command: str) -> Observer:
        """A new observer; all are there before the agents are let in."""
        observer = Observer(self.server.port, *command)
        self.observers.append(observer)
        return observer

    def start(self) -> None:
        self.server.start()
        self.let_agents_in()
        for agent in self.agents:
            agent.start()
        wait_for(
            lambda: (
                self.server.subscribers(CHANNEL) == len(NODES)
                or not all(agent.is_alive for agent in self.agents)
            )
        )
        for agent in self.agents:
            assert agent.is_alive, agent.log.read_text()

    def end_server(self, dump: Optional[bool]) -> None:
        """See Server.end()."""
        for agent in self.agents:
            if agent.proxy:
                agent.proxy.refuse(True)
        self.server.end(dump)

    def start_server(self) -> None:
        self.server.start()
        self.restarts += 1
        self.let_agents_in()

    def let_agents_in(self) -> None:
        """Let them find a server to which all observers listen."""
        for observer in self.observers:
            observer.wait_for_session(self.restarts + 1)
        self.server.open()
        for agent in self.agents:
            if agent.proxy:
                agent.proxy.refuse(False)

    def stop(self) -> None:
        """End all that it consists of; more than once does no harm."""
        for agent in self.agents:
            agent.kill()
            agent.close()
            if agent.proxy:
                agent.proxy.stop()
        self._proxies.stop()
        for observer in self.observers:
            observer.stop()
        self.server.stop()


def commands_of(src: str) -> Iterator[Tuple[int, str]]:
    """Processes that run for requests of that client: pid and state."""
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
