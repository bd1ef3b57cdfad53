"""The real parts of the tests: a redis-server, the daemon, a client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import redis

ROOT = Path(__file__).parent.parent
WITHIN = 30.0  # seconds that anything may take on a busy machine
CHANNEL = "ngcp-task-agent-redis"


def wait_for(what: Callable[[], Any], within: float = WITHIN) -> Any:
    """Wait until ``what`` is true, and return its value."""
    deadline = time.monotonic() + within
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RedisServer:
    """A redis-server for one test, without persistence.

    ``REDIS_SERVER`` in the environment is the path of another program.

    :param options: more command-line options
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.socket = folder / "redis.sock"
        self._folder = folder
        self._log = folder / "redis.log"
        self._options = options
        self._process: Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        """Start it, and wait until it answers.

        If it does not, it is stopped, and its output is printed.
        """
        program = os.environ.get("REDIS_SERVER") or shutil.which(
            "redis-server"
        )
        assert program, "the tests need redis-server (apt install it)"
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(
                [
                    program,
                    *("--port", str(self.port)),
                    *("--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.socket)),
                    *("--save", ""),
                    *("--dir", str(self._folder)),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(lambda: self._answers() or process.poll() is not None)
            assert process.poll() is None, f"{program} has ended"
        except BaseException:
            self.kill()
            print(f"{program}:\n{self._log.read_text()}")
            raise

    def _answers(self) -> bool:
        # Another server can have the port, but not the socket.
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(1)
            try:
                s.connect(str(self.socket))
                s.sendall(b"PING\r\n")
                # A server that requires a password also answers.
                return bool(s.recv(1))
            except OSError:
                return False

    def signal(self, number: int) -> None:
        """STOP stalls the server, CONT resumes it."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as in a crash."""
        assert self._process
        self._process.kill()
        self._process.wait(WITHIN)
        self._process = None

    def stop(self) -> None:
        if self._process:
            try:
                self._process.send_signal(signal.SIGCONT)
                self._process.terminate()
                self._process.wait(WITHIN)
            finally:
                self.kill()

    def connect(self, **options: Any) -> redis.Redis[bytes]:
        return redis.Redis(port=self.port, **options)

    def clients_of(self, name: str) -> int:
        """Return how many connections have that client name."""
        connection = self.connect()
        try:
            return sum(c["name"] == name for c in connection.client_list())
        finally:
            connection.connection_pool.disconnect()

    def is_linked(self) -> bool:
        """Whether this replica has its master's data."""
        connection = self.connect()
        try:
            info = connection.info("replication")
            return info["master_link_status"] == "up"
        finally:
            connection.connection_pool.disconnect()

    def subscribers(self, channel: str) -> int:
        connection = self.connect()
        try:
            return int(connection.pubsub_numsub(channel)[0][1])
        finally:
            connection.connection_pool.disconnect()


class Line:
    """A line to a server, which can delay each connection.

    :ivar port: its entry, on this machine
    :ivar is_held: a connection has sent ``allowed`` bytes to the server
    """

    def __init__(self, server_port: int, allowed: int) -> None:
        self.is_held = threading.Event()
        self._allowed = allowed
        self._is_open = threading.Event()
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def release(self) -> None:
        """Forward everything from now on."""
        self._is_open.set()

    def close(self) -> None:
        self.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                outer = socket.create_connection(
                    ("127.0.0.1", self._server_port)
                )
                self._start(self._carry, inner, outer, self._allowed)
                self._start(self._carry, outer, inner, sys.maxsize)

    def _carry(
        self, source: socket.socket, target: socket.socket, allowed: int
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                allowed -= len(data)
                if allowed < 0:
                    self.is_held.set()
                    self._is_open.wait()
                if not data:
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
        source.close()


class Daemon:
    """The real daemon, started by its script.

    :param config: its configuration folder
    :param process: options of the process, such as ``umask``
    """

    def __init__(
        self,
        config: Path,
        *options: str,
        log_level: str = "debug",
        env: Optional[Dict[str, str]] = None,
        **process: Any,
    ) -> None:
        self.log = config.parent / f"{config.name}.log"
        self._lines = self.log.open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "sbin/ngcp-task-agent")),
                *("--config-dir", str(config)),
                *("--log-level", log_level),
                *options,
            ],
            stderr=self._lines,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            **process,
        )

    def text(self) -> str:
        """Return its whole log."""
        return self.log.read_text()

    def wait_for_log(self, text: str, count: int = 1) -> str:
        """Wait until the text is in the log this many times."""
        wait_for(
            lambda: (
                self.text().count(text) >= count
                or self.process.poll() is not None
            )
        )
        log = self.text()
        assert log.count(text) >= count, log
        return log

    def reload(self) -> str:
        """Send SIGHUP, and wait until the configuration is in force."""
        before = self.text().count(" reloaded")
        self.process.send_signal(signal.SIGHUP)
        return self.wait_for_log(" reloaded", before + 1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it; return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(WITHIN)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._lines.close()
        return status


class Client:
    """A client like any other: subscribes first, publishes, then listens."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        self._redis = server.connect(**options)
        self.channel = f"feedback_{uuid.uuid4()}"
        self._pubsub = self._redis.pubsub()
        self._pubsub.subscribe(self.channel)
        wait_for(lambda: self._pubsub.get_message(timeout=1))
        self.responses: List[Dict[str, Any]] = []

    def listen_too(self, channel: str) -> None:
        """Listen on another channel, too."""
        self._pubsub.subscribe(channel)
        wait_for(lambda: self._pubsub.get_message(timeout=1))

    def request(self, task: str, /, **fields: Any) -> Dict[str, Any]:
        """Return a valid request, with some fields replaced."""
        request = {
            "uuid": str(uuid.uuid4()),
            "task": task,
            "src": "tests",
            "dst": "*",
            "options": {"feedback_channel": self.channel},
            "data": None,
        }
        return {**request, **fields}

    def publish(self, message: Any, channel: str = CHANNEL) -> None:
        """Publish a request, or any bytes."""
        if not isinstance(message, (bytes, str)):
            message = json.dumps(message)
        self._redis.publish(channel, message)

    def send(
        self, task: str, /, channel: str = CHANNEL, **fields: Any
    ) -> Dict[str, Any]:
        """Publish a valid request; return it."""
        request = self.request(task, **fields)
        self.publish(request, channel)
        return request

    def next(self, within: float = WITHIN) -> Dict[str, Any]:
        """Return the next response."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            message = self._pubsub.get_message(timeout=min(0.1, within))
            if message and message["type"] == "message":
                response: Dict[str, Any] = json.loads(message["data"])
                self.responses.append(response)
                return response
        raise AssertionError(f"no response within {within} s")

    def ending(self, within: float = WITHIN) -> Dict[str, Any]:
        """Return the next response that is not ``accepted``."""
        while True:
            response = self.next(within)
            if response["status"] != "accepted":
                return response

    def ask(self, task: str, /, **fields: Any) -> List[Dict[str, Any]]:
        """Send a request; return all responses up to the ending."""
        before = len(self.responses)
        self.send(task, **fields)
        self.ending()
        return self.responses[before:]

    def silent(self, seconds: float = 0.5) -> bool:
        """Whether nothing arrives for this long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = self._pubsub.get_message(timeout=0.05)
            if message and message["type"] == "message":
                self.responses.append(json.loads(message["data"]))
                return False
        return True

    def close(self) -> None:
        self._pubsub.close()
        self._redis.connection_pool.disconnect()


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie.

    Zombies wait for the machine's init, not for the agent.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def statuses(responses: Sequence[Dict[str, Any]]) -> List[str]:
    return [response["status"] for response in responses]
