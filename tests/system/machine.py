"""Machines: a booted Debian, used as an administrator would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from tests.system import rootfs

UNIT = "ngcp-task-agent.service"
CONFIG = "/etc/ngcp-task-agent"
WITHIN = 120.0  # seconds that anything may take on a busy machine

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_PAGER": "",
}
_REBOOT = 133  # exit status of systemd-nspawn for a reboot


def until(what: Callable[[], Any], within: float = WITHIN) -> Any:
    """Wait until ``what`` is true, and return its value."""
    deadline = time.monotonic() + within
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.1)


def as_user(user: str) -> List[str]:
    """Return what starts a command as another user."""
    if user == "root":
        return []
    return ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]


class Asking:
    """A request under way, and its answers."""

    def __init__(self, process: subprocess.Popen[str], request: str) -> None:
        self.uuid = request
        self._process = process

    def next(self) -> Dict[str, Any]:
        """Return the next answer."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"no more answers to {self.uuid}"
        answer: Dict[str, Any] = json.loads(line)
        return answer

    def answers(self) -> List[Dict[str, Any]]:
        """Return all unread answers, once there are no more."""
        out, errors = self._process.communicate()
        assert self._process.returncode == 0, errors
        return [json.loads(line) for line in out.splitlines()]


class Here:
    """This machine, on which the package is installed."""

    def _enter(self) -> List[str]:
        return []

    def _bounded(self, argv: Sequence[str], within: float) -> List[str]:
        # A process started by nsenter does not end with it, so the timeout is
        # inside.
        bound = ["timeout", "--signal=KILL", str(within)]
        return [*self._enter(), *bound, *argv]

    def start(
        self, *argv: str, within: float = WITHIN
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._bounded(argv, within),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def run(
        self,
        *argv: str,
        given: Optional[str] = None,
        check: bool = True,
        within: float = WITHIN,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root.

        :param given: its standard input
        """
        done = subprocess.run(
            self._bounded(argv, within),
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{argv} ended with {done.returncode}:\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def run_as(
        self, user: str, *argv: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as another user."""
        return self.run(*as_user(user), *argv, check=check)

    def out(self, *argv: str) -> str:
        """Return what a command prints."""
        return self.run(*argv).stdout.strip()

    def shell(self, script: str, *arguments: str) -> str:
        return self.out("sh", "-euc", script, "sh", *arguments)

    def complete(self, *words: str) -> List[str]:
        """Return what the TAB key makes of the last of these words."""
        script = """
            source /usr/share/bash-completion/bash_completion
            _completion_loader "$1" ||
                source "/usr/share/bash-completion/completions/$1"
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*"
            COMP_POINT=${#COMP_LINE} COMP_TYPE=9
            function=$(complete -p "$1" | sed 's/.* -F \\([^ ]*\\).*/\\1/')
            compopt() { :; }
            "$function" "$1" "${@: -1}" "${@: -2:1}"
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        return self.out("bash", "-c", script, "bash", *words).split()

    # Files

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run("tee", path, given=text)
        self.run("chmod", mode, path)

    def remove(self, *paths: str) -> None:
        self.run("rm", "-rf", *paths)

    def read_link(self, path: str) -> str:
        return self.out("readlink", path)

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).returncode == 0

    # The service

    def systemctl(self, *words: str) -> str:
        return self.out("systemctl", *words)

    def property(self, name: str, unit: str = UNIT) -> str:
        return self.out("systemctl", "show", "--value", "-p", name, unit)

    def is_active(self, unit: str = UNIT) -> bool:
        return self.property("ActiveState", unit) == "active"

    def wait_for_redis(self) -> None:
        """Wait until requests reach the agent."""
        until(lambda: "subscribed" in self.property("StatusText"))

    def cgroup(self) -> List[int]:
        """Return the processes of the service."""
        folder = "/sys/fs/cgroup" + (
            self.property("ControlGroup") or f"/system.slice/{UNIT}"
        )
        found = self.run("cat", f"{folder}/cgroup.procs", check=False)
        return [int(number) for number in found.stdout.split()]

    def cursor(self) -> str:
        """Return the current end of the journal."""
        self.run("journalctl", "--sync")
        text = self.out("journalctl", "-n0", "--show-cursor")
        return text.rpartition("-- cursor: ")[2]

    def journal(self, *words: str, after: str = "") -> str:
        self.run("journalctl", "--sync")
        since = [f"--after-cursor={after}"] if after else []
        return self.out("journalctl", "-u", UNIT, *since, *words)

    def records(self, *matches: str, after: str = "") -> List[Dict[str, Any]]:
        """Return records of the journal with all their fields."""
        self.run("journalctl", "--sync")
        since = [f"--after-cursor={after}"] if after else []
        text = self.out("journalctl", "-o", "json", *since, *matches)
        return [json.loads(line) for line in text.splitlines()]

    # Tasks and requests

    def task(
        self,
        name: str,
        run: str,
        args: Union[str, Sequence[str]] = (),
        broker: str = "command",
        **keys: Any,
    ) -> str:
        """Write a task's file; other keys are the broker's options."""
        return self.write_task(name, broker, run=run, args=args, **keys)

    def write_task(
        self,
        name: str,
        broker: str,
        file: str = "",
        text: str = "",
        **options: Any,
    ) -> str:
        """Write a task's file.

        :param file: its name, if not as the task's
        :param text: the description
        """
        path = f"{CONFIG}/tasks/{file or name}.yml"
        task = {
            "name": name,
            "backend": "redis",
            "backend_options": {"control_channel": "ngcp-task-agent-redis"},
            "broker": broker,
            "broker_options": options,
            "description": text,
            "max_running": 64,
        }
        # JSON is YAML.
        self.write(path, json.dumps(task))
        return path

    def ask(self, task: str, **keys: Any) -> List[Dict[str, Any]]:
        """Send a request and wait for its answers, see start_asking()."""
        return self.start_asking(task, **keys).answers()

    def start_asking(
        self,
        task: str,
        dst: str = "*",
        src: str = "tests",
        endings: int = 1,
        nodes: int = 0,
        data: Any = None,
    ) -> Asking:
        """Send a request.

        :param endings: how many to wait for
        :param nodes: how many nodes there are, each of which must then show
            that it has no more answers; 0 to skip that
        """
        request = str(uuid.uuid4())
        message = {
            "uuid": request,
            "task": task,
            "src": src,
            "dst": dst,
            "options": {"feedback_channel": f"tests-{request}"},
            "data": data,
        }
        program = (Path(__file__).parent / "ask.py").read_text()
        process = self.start(
            *("python3", "-c", program),
            *(json.dumps(message), str(endings), str(nodes), str(WITHIN)),
            within=WITHIN + 10,
        )
        return Asking(process, request)


class Machine(Here):
    """A machine for the tests.

    :param root: the contents of its disk
    :param folder: where its changes to the disk are kept
    :param cgroup: a cgroup that does not exist yet
    """

    def __init__(
        self, name: str, root: Path, folder: Path, cgroup: Path
    ) -> None:
        self.name = name
        self._base = root
        self._folder = folder
        self._cgroup = cgroup
        self._nspawn: Optional[subprocess.Popen[bytes]] = None
        self._init = 0

    @property
    def root(self) -> Path:
        """Its disk, seen from outside."""
        return rootfs.mount_copy(self._base, self._folder)

    def chroot(self, *argv: str) -> str:
        """Run a command on its disk, while it is off."""
        assert not self._nspawn
        # As in an installer or an image build: no systemd, no services.
        done = subprocess.run(
            ["chroot", str(self.root), *argv],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WITHIN,
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}"
        return done.stdout

    def boot(self) -> None:
        """Boot it; return when all units are started or failed."""
        assert not self._nspawn
        self._cgroup.mkdir(exist_ok=True)
        log = open(self._folder / "console", "ab")
        with log:
            self._nspawn = subprocess.Popen(
                [
                    *("sh", "-euc", 'echo $$ >"$0/cgroup.procs"; exec "$@"'),
                    *(str(self._cgroup), "systemd-nspawn", "--quiet"),
                    *("--directory", str(self.root), "--register=no"),
                    *("--keep-unit", f"--machine={self.name}"),
                    *("--console=pipe", "--boot"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._init = until(self._find_init)
        until(self._has_booted)

    def _find_init(self) -> int:
        assert self._nspawn, f"{self.name} is not switched on"
        if self._nspawn.poll() is not None:
            raise AssertionError((self._folder / "console").read_text())
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return int(children.split()[0]) if children.split() else 0

    def _has_booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False)
        return state.stdout.strip() in ("running", "degraded")

    def _enter(self) -> List[str]:
        assert self._init, f"{self.name} is not switched on"
        return ["nsenter", "-t", str(self._init), "-a", "--"]

    def reboot(self) -> None:
        self.run("systemctl", "reboot", check=False)
        assert self._wait() == _REBOOT
        self.boot()

    def power_off(self) -> None:
        if self._nspawn:
            self.run("systemctl", "poweroff", check=False)
            assert self._wait() == 0

    def _wait(self) -> int:
        assert self._nspawn
        status = self._nspawn.wait(WITHIN)
        self._nspawn, self._init = None, 0
        # Each unit has a cgroup below.
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            os.rmdir(folder)
        return status

    def kill(self) -> None:
        """Pull the plug."""
        if self._nspawn:
            self._nspawn.send_signal(signal.SIGKILL)
            (self._cgroup / "cgroup.kill").write_text("1")
            self._nspawn.wait(WITHIN)
            self._nspawn, self._init = None, 0
