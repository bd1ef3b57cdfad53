"""A fleet: twelve agents on one Redis, and a machine to ask them from."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, List

from tests.integration.conftest import ConfigFolder
from tests.invoking import Invoked, command, environment
from tests.parts import WITHIN, Daemon, RedisServer, wait_for

# Name of the configuration's folder, and what agent.yml says of the node.
NODES: Dict[str, Dict[str, Any]] = {
    "prx01a": {"roles": ["proxy"], "labels": {"site": "vienna"}},
    "prx01b": {"roles": ["proxy"], "state": "standby"},
    "prx02a": {"roles": ["proxy"], "labels": {"site": "graz"}},
    "lb01a": {"roles": ["lb"]},
    "lb01b": {"roles": ["lb"], "state": "standby"},
    "db01a": {"roles": ["db"], "aliases": ["db.example.org"]},
    "db01b": {"roles": ["db"], "state": "standby"},
    "slow01": {"roles": ["slow"]},
    "old01": {"roles": ["old"]},
    "deaf01": {"roles": ["deaf"]},
    "twin01": {"roles": ["twin"]},
    "twin01-too": {"name": "twin01", "roles": ["twin"]},
}
#: The destination of all that answer and have a name of their own.
PROPER = "prx*,lb*,db*,slow*,old*"
NAMES = [
    *("db01a", "db01b", "lb01a", "lb01b", "old01"),
    *("prx01a", "prx01b", "prx02a", "slow01"),
]


class Fleet:
    """Twelve agents: one is deaf, one slow, one knows no built-in tasks, and
    two have one name.

    :ivar desk: the configuration folder of a machine without an agent
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = RedisServer(folder)
        self.desk = folder / "desk"
        self._daemons: Dict[str, Daemon] = {}

    def start(self) -> None:
        """Start Redis and the agents; return when all but one are there."""
        self.server.start()
        desk = ConfigFolder(self.desk, self.server.port)
        desk.agent(node={"name": "desk"})
        for name, node in NODES.items():
            config = ConfigFolder(self.folder / name, self.server.port)
            keys: Dict[str, Any] = {"node": {"name": name, **node}}
            if name == "old01":
                # To a client, as an agent before 1.6.0.
                keys["built_in_tasks"] = False
            config.agent(**keys)
            _add_tasks(config, name)
            self._daemons[name] = Daemon(config.path)
        for daemon in self._daemons.values():
            wait_for(
                lambda d=daemon: (
                    "has started" in d.text() or d.process.poll() is not None
                )
            )
            assert daemon.process.poll() is None, daemon.text()
        self.signal("deaf01", signal.SIGSTOP)

    def _environment(self, **more: str) -> Dict[str, str]:
        # Not the cache of whoever runs the tests.
        return environment(XDG_CACHE_HOME=str(self.folder / "cache"), **more)

    def signal(self, name: str, number: int) -> None:
        self._daemons[name].process.send_signal(number)

    def stop(self) -> None:
        try:
            for daemon in self._daemons.values():
                daemon.process.send_signal(signal.SIGCONT)
                daemon.process.terminate()
            for daemon in self._daemons.values():
                daemon.stop()
        finally:
            self.server.stop()

    def log(self, name: str) -> str:
        """Return what an agent has logged."""
        return self._daemons[name].text()

    def words(self, *arguments: str) -> List[str]:
        """Return the command line of ngcp-invoke-task on the desk."""
        return command("--config-dir", str(self.desk), *arguments)

    def invoke(self, *arguments: str, **options: Any) -> Invoked:
        """Run ngcp-invoke-task on the desk."""
        return Invoked(
            subprocess.run(
                self.words(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment(**options),
                timeout=2 * WITHIN,
            )
        )

    def begin(
        self, *arguments: str, out: Any = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start ngcp-invoke-task, and do not wait.

        :param out: its standard output
        """
        return subprocess.Popen(
            self.words(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            env=self._environment(),
        )


def finish(process: subprocess.Popen[bytes]) -> Invoked:
    """Wait for ngcp-invoke-task."""
    out, err = process.communicate(timeout=2 * WITHIN)
    return Invoked(
        subprocess.CompletedProcess([], process.returncode, out or b"", err)
    )


def _add_tasks(config: ConfigFolder, name: str) -> None:
    config.shell("name", f"echo {name}", description="Who is it?")
    config.shell("role", f"echo {NODES[name]['roles'][0]}")
    config.shell("works", "exit 3" if name.endswith("b") else "echo fine")
    config.shell("data", 'echo "${NGCP_TASK_DATA-none}"')
    config.shell("words", 'echo "$@"', broker_extra_args=True)
    # Its child ignores TERM as well.
    config.shell(
        "stubborn",
        f"trap '' TERM; echo $$ >{config.path}/pid; sleep 600 & wait; wait",
    )
    config.shell(
        "lines",
        f"echo one; echo two >&2; until [ -e {config.path}/go ]; do "
        "sleep 0.05; done; echo three",
        broker_timeout=WITHIN,
        live_output=True,
    )
    config.shell("late", "sleep 2; echo late" if name == "slow01" else "true")
    if name.startswith("lb"):
        config.shell("balance", "echo balanced", allow_src=["web*"])
