"""What is measured: the agent, and the bare minimum beside it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from tests.parts import CHANNEL, ROOT, RedisServer, wait_for

HERE = Path(__file__).parent
_JOURNAL = Path("/run/systemd/journal/socket")
# How many records a new socket holds.  systemd sets 512; without it, it is 10,
# and the agent would often have to wait.
_QUEUE = Path("/proc/sys/net/unix/max_dgram_qlen")


@contextlib.contextmanager
def journal() -> Iterator[Dict[str, str]]:
    """Offer a journal that reads and forgets, as root, if there is none.

    Yields the environment of a daemon that logs to it.  Otherwise the daemon
    writes lines to /dev/null.
    """
    if os.geteuid() != 0 or _is_there():
        yield {}
        return
    _JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    _JOURNAL.unlink(missing_ok=True)
    before = _QUEUE.read_text()
    with contextlib.suppress(OSError):
        _QUEUE.write_text("512")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        with contextlib.suppress(OSError):
            _QUEUE.write_text(before)
        end.bind(str(_JOURNAL))
        drain = subprocess.Popen(
            [
                *(sys.executable, "-c"),
                "import socket, sys\n"
                "end = socket.socket(fileno=int(sys.argv[1]))\n"
                "while end.recv(1 << 18): pass",
                str(end.fileno()),
            ],
            pass_fds=[end.fileno()],
        )
        try:
            null = os.stat(os.devnull)
            yield {"JOURNAL_STREAM": f"{null.st_dev}:{null.st_ino}"}
        finally:
            drain.kill()
            drain.wait()
            _JOURNAL.unlink()


def _is_there() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(str(_JOURNAL))
        except OSError:
            return False
        return True


def environment() -> Dict[str, str]:
    """Return the environment of what is measured."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


class Contender:
    """A process that takes requests from a channel of its own.

    :ivar started: seconds until it had subscribed
    """

    def __init__(
        self,
        server: RedisServer,
        channel: str,
        words: List[str],
        env: Optional[Dict[str, str]] = None,
    ) -> None:
        self.channel = channel
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment(), **(env or {})},
        )
        self.pid = self._process.pid
        wait_for(lambda: server.subscribers(channel), within=120)
        self.started = time.perf_counter() - begin

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        total = 0
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
        return total / 1e9

    def pss(self) -> float:
        """Return its share of memory, in MB."""
        return pss(self.pid)


def pss(pid: int) -> float:
    """Return a process's share of memory, in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (line,) = (part for part in text.splitlines() if part[:4] == "Pss:")
    return int(line.split()[1]) / 1024


def agent(
    server: RedisServer,
    folder: Path,
    env: Dict[str, str],
    tasks: int = 1,
    **more: Any,
) -> Contender:
    """Start an agent with tasks ``bench0``, ``bench1``, ...

    :param more: of the tasks' ``broker_options``
    """
    files = {"backends/redis.yml": f"port: {server.port}\n"}
    options = "".join(f", {key}: {value}" for key, value in more.items())
    for number in range(tasks):
        files[f"tasks/bench{number}.yml"] = (
            f"name: bench{number}\n"
            "backend: redis\n"
            f"backend_options: {{control_channel: {CHANNEL}-{folder.name}}}\n"
            "broker: command\n"
            f"broker_options: {{run: /bin/true{options}}}\n"
            "max_queued: 1000\n"
        )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    words = ["sbin/ngcp-task-agent", "--config-dir", str(folder)]
    words[0] = str(ROOT / words[0])
    return Contender(server, f"{CHANNEL}-{folder.name}", words, env)


class Notices:
    """What an agent tells systemd, see sd_notify(3).

    :param folder: where its socket is
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "notify"
        path.unlink(missing_ok=True)
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(120)

    def wait_for(self, notice: bytes) -> None:
        while notice not in self._socket.recv(4096).splitlines():
            pass

    def close(self) -> None:
        self._socket.close()


def floor(server: RedisServer, channel: str) -> Contender:
    words = [str(HERE / "floor.py"), str(server.port), channel]
    return Contender(server, channel, words)


def reader(server: RedisServer, channel: str) -> Contender:
    words = [str(HERE / "reader.py"), str(server.port), channel]
    return Contender(server, channel, words)
