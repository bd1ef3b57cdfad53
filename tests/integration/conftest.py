"""Fixtures of real parts; each test gets its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
import yaml

from tests.parts import CHANNEL, Client, Daemon, RedisServer, wait_for


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="agent-") as name:
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


class ConfigFolder:
    """A folder of the daemon's configuration."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        for name in ("backends", "tasks"):
            (path / name).mkdir(parents=True)
        self.port = port
        self.backend()
        self.agent()

    def write(self, name: str, content: Any) -> Path:
        file = self.path / name
        # In one step, so that no reload sees half of it.
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
        """A task; ``broker_options`` are keys with ``broker_`` before."""
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
        """A task that runs a shell script; extra words become $1, $2."""
        return self.task(name, "sh", broker_args=["-c", script, name], **keys)


@pytest.fixture
def config(folder: Path, server: RedisServer) -> ConfigFolder:
    return ConfigFolder(folder / "config", server.port)


@pytest.fixture
def start(config: ConfigFolder) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons with that configuration, and ends them."""
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
    """Makes clients of the server, and closes them."""
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
