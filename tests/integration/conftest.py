"""Fixtures with real parts; each test gets its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List

import pytest
import yaml

from tests.bus import PrivateBus
from tests.parts import (
    CHANNEL,
    WITHIN,
    Client,
    Daemon,
    RedisServer,
    wait_for,
)

Script = Callable[[Dict[str, Any]], Iterable[Any]]


# Characters of each log to show when a test fails.
_SHOWN = 50_000


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short path: that of a unix socket is limited to 107 characters.

    If the test fails, the logs in it are shown.
    """
    with tempfile.TemporaryDirectory(prefix="agent-") as name:
        yield Path(name)
        for log in sorted(Path(name).rglob("*.log")):
            text = log.read_text(errors="replace")
            request.node.add_report_section(
                "teardown", log.name, text[-_SHOWN:]
            )


@pytest.fixture
def server(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


class ConfigFolder:
    """The daemon's configuration folder."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        for name in ("backends", "tasks"):
            (path / name).mkdir(parents=True)
        self.port = port
        self.backend()
        self.agent()

    def write(self, name: str, content: Any) -> Path:
        file = self.path / name
        # Atomically, so that no reload sees half of it.
        part = file.with_suffix(".part")
        part.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content)
        )
        part.rename(file)
        return file

    def agent(self, **keys: Any) -> Path:
        keys.setdefault("node", {"name": "sp1"})
        return self.write("agent.yml", keys)

    def backend(self, name: str = "redis", **keys: Any) -> Path:
        settings: Dict[str, Any] = {"type": "redis", "ping_interval": 1}
        if "unix_socket" not in keys:
            settings["port"] = self.port
        return self.write(f"backends/{name}.yml", {**settings, **keys})

    def task(self, name: str, run: str, **keys: Any) -> Path:
        """Add a task; ``broker_`` prefixes the keys of ``broker_options``."""
        options = {
            key[7:]: keys.pop(key)
            for key in list(keys)
            if key.startswith("broker_")
        }
        settings = {
            "name": name,
            "backend": "redis",
            "backend_options": {
                "control_channel": keys.pop("channel", CHANNEL)
            },
            "broker": "command",
            "broker_options": {"run": run, **options},
        }
        return self.write(f"tasks/{name}.yml", {**settings, **keys})

    def shell(self, name: str, script: str, **keys: Any) -> Path:
        """Add a task that runs a shell script; extra words become $1, $2."""
        return self.task(name, "sh", broker_args=["-c", script, name], **keys)


@pytest.fixture
def config(folder: Path, server: RedisServer) -> ConfigFolder:
    return ConfigFolder(folder / "config", server.port)


@pytest.fixture
def wait_for_slow(
    folder: Path, config: ConfigFolder
) -> Iterator[Callable[[], None]]:
    """Add a task ``slow``, which outlives its agent; wait for its start."""
    pid = folder / "pid"
    config.shell("slow", f"echo $$ >{pid}; exec sleep 600")
    yield lambda: wait_for(lambda: pid.exists() and pid.read_text())
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture
def start(config: ConfigFolder) -> Iterator[Callable[..., Daemon]]:
    """Start daemons with that configuration, and stop them at the end."""
    daemons: List[Daemon] = []

    def start(*options: str, **keys: Any) -> Daemon:
        keys_config = keys.pop("config", config)
        daemon = Daemon(keys_config.path, *options, **keys)
        daemons.append(daemon)
        wait_for(
            lambda: (
                "has started" in daemon.text()
                or daemon.process.poll() is not None
            )
        )
        return daemon

    yield start
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def connect(server: RedisServer) -> Iterator[Callable[..., Client]]:
    """Connect clients to the server, and close them at the end."""
    clients: List[Client] = []

    def connect(**options: Any) -> Client:
        clients.append(Client(server, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    return connect()


@pytest.fixture
def certificate(folder: Path) -> Path:
    """A folder with a CA, and a certificate from it for localhost."""

    def openssl(*words: str) -> None:
        subprocess.run(
            ["openssl", *words], cwd=folder, check=True, capture_output=True
        )

    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=ca"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
        # Python 3.13 requires these extensions.
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    openssl(
        *("req", *key[:3], "-subj", "/CN=localhost"),
        *("-keyout", "server.key", "-out", "server.csr"),
    )
    (folder / "ext").write_text(
        "subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n"
    )
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem"),
        *("-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
        *("-extfile", "ext", "-out", "server.pem"),
    )
    return folder


class Scripted:
    """An agent that answers each request with its own messages.

    :param script: makes them from the request
    """

    def __init__(self, server: RedisServer, script: Script) -> None:
        self._redis = server.connect()
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(CHANNEL)
        self._script = script
        self._thread = threading.Thread(target=self._run)
        self._stopped = False
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            message = self._pubsub.get_message(timeout=0.05)
            if message:
                self._answer(json.loads(message["data"]))

    def _answer(self, request: Dict[str, Any]) -> None:
        channel = request["options"]["feedback_channel"]
        answers = iter(self._script(request))
        # Many at once: an endless script must be fast.
        while some := list(itertools.islice(answers, 50)):
            with self._redis.pipeline(transaction=False) as pipeline:
                for answer in some:
                    to = channel
                    if not isinstance(answer, bytes):
                        if "stream" in answer:  # it is live output
                            to = request["options"]["progress_channel"]
                        answer = json.dumps(answer).encode()
                    pipeline.publish(to, answer)
                heard = pipeline.execute()
            if self._stopped or not any(heard):
                return

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(WITHIN)
        self._pubsub.close()
        self._redis.connection_pool.disconnect()


@pytest.fixture
def scripted(server: RedisServer) -> Iterator[Callable[[Script], Scripted]]:
    """Start scripted agents, and stop them at the end."""
    agents: List[Scripted] = []

    def scripted(script: Script) -> Scripted:
        agents.append(Scripted(server, script))
        wait_for(lambda: server.subscribers(CHANNEL))
        return agents[-1]

    yield scripted
    for agent in agents:
        agent.stop()


@pytest.fixture
def bus(folder: Path) -> Iterator[PrivateBus]:
    folder.chmod(0o755)
    bus = PrivateBus(folder)
    bus.start()
    yield bus
    bus.stop()


@pytest.fixture
def managed(
    bus: PrivateBus, config: ConfigFolder, start: Callable[..., Daemon]
) -> Callable[..., Daemon]:
    """Start an agent that owns the name."""

    def managed(**env: str) -> Daemon:
        daemon = start(env={"DBUS_SYSTEM_BUS_ADDRESS": bus.address, **env})
        daemon.wait_for_log("managed over the bus, as ")
        return daemon

    return managed
