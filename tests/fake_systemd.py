"""FakeSystemd: what the agent uses of systemd, on a private bus.

It really runs the programs of transient units, and kills what they leave.
Units that exist already behave as a test says.  Run as a program, it is the
fake itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import pwd
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple
from unittest import mock

from tests.bus import PrivateBus

NAME = "org.freedesktop.systemd1"


class _Text(str):
    """A string that dbus-fast 1.84 sends whole: it takes the length for the
    number of bytes.
    """

    def __len__(self) -> int:
        return len(self.encode())


def _sendable(value: Any) -> Any:
    """Return a part of a body with such strings."""
    if isinstance(value, str):
        return value if value.isascii() else _Text(value)
    if isinstance(value, (list, tuple)):
        return [*map(_sendable, value)]
    if isinstance(value, dict):
        return {key: _sendable(part) for key, part in value.items()}
    if hasattr(value, "signature"):
        value.value = _sendable(value.value)  # a Variant
    return value


PATH = "/org/freedesktop/systemd1"
MANAGER = f"{NAME}.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
ROOT = Path(__file__).parents[1]


class FakeSystemd:
    """Starts and controls the fake.

    :param folder: where it keeps its files; others must be able to enter it
    """

    def __init__(self, bus: PrivateBus, folder: Path) -> None:
        self.bus = bus
        self._units = folder / "units.json"
        self._log = folder / "log"
        self._pid = 0

    def start(self) -> None:
        """Start it, and wait until it is on the bus."""
        self._units.write_text("{}")
        self._log.touch()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fake_systemd"),
                *(self.bus.address, str(self._units), str(self._log)),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        )
        self._pid = int(done.stdout)

    def stop(self) -> None:
        """Stop it, and all that runs in its units."""
        if not self._pid:
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self._pid)
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            select.select([pidfd], [], [], 30)
            os.close(pidfd)
        self._pid = 0

    def has(self, **units: Any) -> None:
        """Say which units exist, and how they behave, see Existing."""
        found = {name.replace("_", "-"): how for name, how in units.items()}
        self._units.write_text(json.dumps(found))

    def calls(self) -> List[Dict[str, Any]]:
        """Return what it was asked to do, and by which name on the bus."""
        return [
            json.loads(line) for line in self._log.read_text().splitlines()
        ]

    def asked(self, member: str) -> List[List[Any]]:
        """Return the bodies of all calls of a method.

        Those of ``ended`` are the names of units that have ended.
        """
        return [c["body"] for c in self.calls() if c["member"] == member]

    def started(self) -> List[Dict[str, Any]]:
        """Return the properties of all units started, in order."""
        return [dict(body[2]) for body in self.asked("StartTransientUnit")]

    def processes(self) -> List[int]:
        """Return what runs in its units."""
        return [pid for pid, _ in _marked(self._pid)] if self._pid else []


# What follows is the fake itself.


def _mark(fake: int) -> str:
    return f"INVOCATION_ID=fake-{fake}-"


def _marked(fake: int) -> List[Tuple[int, str]]:
    """Return the processes of units, and their units.

    :param fake: its process id
    """
    found, mark = [], _mark(fake)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{entry}/environ").read_bytes()
                state = Path(f"/proc/{entry}/stat").read_text()
                if state.rpartition(")")[2].split()[0] == "Z":
                    continue
                for one in variables.split(b"\0"):
                    if one.startswith(mark.encode()):
                        found.append((int(entry), one.decode()[len(mark) :]))
    return found


def _path(unit: str) -> str:
    escaped = re.sub(
        rb"[^A-Za-z0-9]|^[0-9]",
        lambda m: b"_%02x" % m.group()[0],
        unit.encode(),
    )
    return f"{PATH}/unit/{escaped.decode()}"


class Refusal(Exception):
    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = f"{NAME}.{name}" if "." not in name else name


class Transient:
    """A unit that runs a program."""

    def __init__(
        self, fake: Fake, name: str, settings: Dict[str, Any]
    ) -> None:
        self.fake, self.name, self.settings = fake, name, settings
        self.known: Dict[str, Any] = {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "SubState": "dead",
            "Job": [7, f"{PATH}/job/7"],
            "Result": "success",
            "ExecMainCode": 0,
            "ExecMainStatus": 0,
            "ExecMainPID": 0,
        }
        self.main_ended = asyncio.Event()
        self.to_stop = asyncio.Event()
        self.fds: List[int] = []

    async def run(self) -> None:
        await self.fake.changed(self)
        pid = self._fork()
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        if not pid:
            self.known.update(Result="resources")
            await self._end()
            return
        self.fake.mains[pid] = self
        self.known.update(
            ActiveState="active",
            SubState="running",
            Job=[0, "/"],
            ExecMainPID=pid,
            ExecMainStartTimestampMonotonic=_now(),
        )
        await self.fake.changed(self)
        ended = asyncio.ensure_future(self.main_ended.wait())
        stop = asyncio.ensure_future(self.to_stop.wait())
        longest = self.settings.get("RuntimeMaxUSec", 1 << 63) / 1e6
        done, _ = await asyncio.wait(
            {ended, stop},
            timeout=min(longest, 1e6),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            self.known["Result"] = "timeout"
        await self._kill_all()
        await ended
        stop.cancel()
        await self._end()

    async def _left(self) -> List[int]:
        """Return what runs in it: twice nothing is nothing, not once.

        A process that is just being made may be missed.
        """
        for _ in range(3):
            marked = _marked(os.getpid())
            pids = [pid for pid, unit in marked if unit == self.name]
            if pids:
                return pids
            await asyncio.sleep(0.005)
        return []

    async def _kill_all(self) -> None:
        left = self.settings.get("TimeoutStopUSec", 90_000_000) / 1e6
        deadline = time.monotonic() + left
        number = signal.SIGTERM
        while True:
            pids = await self._left()
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                if not await self._left():
                    return
            # As systemd does, even if the main process has ended well.
            if self.known["Result"] == "success":
                self.known["Result"] = "timeout"
            number = signal.SIGKILL
            deadline = time.monotonic() + 0.05

    async def _end(self) -> None:
        known = self.known
        known["ActiveState"] = "inactive"
        if known["Result"] != "success":
            known["ActiveState"] = "failed"
        known.update(SubState="dead", Job=[0, "/"])
        self.fake.units.pop(self.name, None)
        self.fake.note("ended", [self.name])
        await self.fake.changed(self)

    def ended(self, status: int) -> None:
        """Take the status of the main process."""
        known = self.known
        known["ExecMainExitTimestampMonotonic"] = _now()
        if os.WIFEXITED(status):
            known.update(ExecMainCode=1, ExecMainStatus=os.WEXITSTATUS(status))
            if os.WEXITSTATUS(status) and known["Result"] == "success":
                known["Result"] = "exit-code"
        else:
            known.update(ExecMainCode=2, ExecMainStatus=os.WTERMSIG(status))
            clean = self.to_stop.is_set() and os.WTERMSIG(status) == 15
            if not clean and known["Result"] == "success":
                known["Result"] = "signal"
        # A test's way to run out of memory.
        if "OOM" in self.settings.get("Description", ""):
            known["Result"] = "oom-kill"
        self.main_ended.set()

    def _fork(self) -> int:
        """Start the program; return 0 if the unit cannot be set up."""
        settings = self.settings
        try:
            environment = _environment(settings.get("EnvironmentFiles", []))
        except ValueError:
            return 0
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            status = 203
            self._become(environment)
        except KeyError:
            status = 217
        except BaseException:
            pass
        os._exit(status)

    def _become(self, environment: Dict[str, str]) -> None:
        settings = self.settings
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {9, 19, 32, 33}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(settings.get("StandardInputFileDescriptor", null), 0)
        os.dup2(settings["StandardOutputFileDescriptor"], 1)
        os.dup2(settings["StandardErrorFileDescriptor"], 2)
        os.closerange(3, 4096)
        os.umask(settings.get("UMask", 0o022))
        try:
            os.chdir(settings.get("WorkingDirectory", "/"))
        except OSError:
            os._exit(200)
        if "User" in settings:
            user = pwd.getpwnam(settings["User"])
            if os.geteuid() == 0:
                os.initgroups(user.pw_name, user.pw_gid)
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
        ((path, argv, flags),) = settings["ExecStartEx"]
        if flags != ["no-env-expand"]:
            argv = [re.sub(r"\$\w+", "", word) for word in argv]
        name, _, value = f"{_mark(os.getppid())}{self.name}".partition("=")
        environment[name] = value
        os.execve(path, argv, environment)


def _environment(files: List[Any]) -> Dict[str, str]:
    found = {}
    for path, _ in files:
        text = Path(path).read_bytes().decode()
        # What systemd refuses, of what a test sends.
        if re.search("[\ufffe\uffff\ufdd0-\ufdef]", text):
            raise ValueError
        assignments = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"\n', text, re.S)
        for name, value in assignments:
            found[name] = re.sub(r'\\(["\\$`])', r"\1", value)
    return found


def _now() -> int:
    return time.monotonic_ns() // 1000


class Existing:
    """A unit that exists already.

    :param how: its properties; and by method what a job does: ``error``, a
        name; else ``result``, ``delay`` in seconds, ``early`` for a signal
        before the reply, ``then``, the properties that change, and
        ``later``, those that change a moment after it
    """

    def __init__(self, name: str, how: Dict[str, Any]) -> None:
        self.name = name
        self.how = how
        self.known = {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "SubState": "dead",
            "Job": [0, "/"],
            "Result": "success",
            "Type": "simple",
            "ConditionResult": True,
            **{k: v for k, v in how.items() if not isinstance(v, dict)},
        }


_SIGNATURES = {
    "Job": "(uo)",
    "ExecMainCode": "i",
    "ExecMainStatus": "i",
    "ExecMainPID": "u",
    "ExecMainStartTimestampMonotonic": "t",
    "ExecMainExitTimestampMonotonic": "t",
    "ConditionResult": "b",
    "InvocationID": "ay",
}


class Fake:
    """What answers on the bus."""

    def __init__(self, address: str, units: Path, log: Path) -> None:
        self.address, self.configured, self.log = address, units, log
        self.units: Dict[str, Transient] = {}
        self.existing: Dict[str, Existing] = {}
        self.mains: Dict[int, Transient] = {}
        self.jobs: Dict[str, asyncio.Event] = {}  # path: cancelled
        self.by_unit: Dict[Tuple[str, str], str] = {}
        self.number = 100
        self.subscribers: Set[str] = set()
        self.bus: Any = None
        self.sending = asyncio.Lock()
        self.tasks: Set[Any] = set()

    async def serve(self, ready: int) -> None:
        from dbus_fast.aio.message_bus import MessageBus

        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        stopping = asyncio.ensure_future(stopped.wait())
        while not stopped.is_set():
            try:
                with mock.patch("socket.socket", _Socket):
                    self.bus = MessageBus(self.address, negotiate_unix_fd=True)
                self.bus.add_message_handler(self._handle)
                await self.bus.connect()
                await self.bus.request_name(NAME)
            except Exception:
                await asyncio.sleep(0.05)
                continue
            if ready >= 0:
                os.write(ready, b"1")
                os.close(ready)
                ready = -1
            gone = asyncio.ensure_future(self.bus.wait_for_disconnect())
            await asyncio.wait(
                {gone, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
            self.subscribers.clear()
        for pid, _ in _marked(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                unit = self.mains.pop(pid, None)
                if unit:
                    unit.ended(status)

    def note(self, member: str, body: List[Any], sender: str = "") -> None:
        entry = {"member": member, "body": body, "sender": sender}
        with open(self.log, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def start(self, step: Any) -> None:
        task = asyncio.ensure_future(step)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def send(self, message: Any) -> None:
        message.body = _sendable(message.body)
        async with self.sending:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.bus.send(message), 5)

    async def changed(self, unit: Any) -> None:
        """Tell subscribers of a unit's properties, as systemd does."""
        from dbus_fast.message import Message

        if not self.subscribers:
            return
        generic = {"ActiveState", "SubState", "Job", "LoadState"}
        for interface, names in (
            (f"{NAME}.Service", unit.known.keys() - generic),
            (f"{NAME}.Unit", generic),
        ):
            body = [interface, _variants(unit.known, names), []]
            await self.send(
                Message.new_signal(
                    _path(unit.name),
                    PROPERTIES,
                    "PropertiesChanged",
                    "sa{sv}as",
                    body,
                )
            )

    def _handle(self, message: Any) -> Any:
        if message.message_type.name != "METHOD_CALL":
            return None
        if message.interface == "org.freedesktop.DBus.Peer":
            return None
        self.start(self._answer(message))
        return True

    async def _answer(self, message: Any) -> None:
        from dbus_fast.message import Message

        body = _plain(message.body)
        self.note(message.member, body, message.sender)
        try:
            signature, answer = await self._do(message, body)
            reply = Message.new_method_return(message, signature, answer)
        except Refusal as refusal:
            reply = _error(message, refusal.name, str(refusal))
        except Exception as error:
            reply = _error(message, f"{NAME}.Bug", repr(error))
        await self.send(reply)

    async def _do(
        self, message: Any, body: List[Any]
    ) -> Tuple[str, List[Any]]:
        member = message.member
        if member == "Subscribe":
            if message.sender in self.subscribers:
                raise Refusal("AlreadySubscribed", "subscribed already")
            self.subscribers.add(message.sender)
            return "", []
        if member == "StartTransientUnit":
            return "o", [self._start_transient(message, body)]
        if member == "GetAll":
            return "a{sv}", [self._get_all(message.path)]
        if member == "Get":
            if message.path not in self.jobs:
                raise Refusal(
                    "org.freedesktop.DBus.Error.UnknownObject", "no such job"
                )
            return "v", [_variant("Id", 1)]
        if member == "Cancel":
            self.jobs[message.path].set()
            return "", []
        if member == "RefUnit":
            unit = self._find(body[0])
            if "error" in unit.how.get("RefUnit", {}):
                raise Refusal(unit.how["RefUnit"]["error"], "refused")
            return "", []
        if member == "UnrefUnit":
            return "", []
        if member == "StopUnit" and body[0] in self.units:
            self.units[body[0]].to_stop.set()
            return "o", [f"{PATH}/job/8"]
        if member == "StopUnit" and body[0].endswith(".slice"):
            inside = [
                unit
                for unit in self.units.values()
                if unit.settings.get("Slice") == body[0]
            ]
            if not inside:
                raise Refusal("NoSuchUnit", f"Unit {body[0]} not loaded.")
            self.start(self._stop_slice(body[0], inside))
            return "o", [f"{PATH}/job/9"]
        return "o", [await self._job(member, body[0])]

    def _start_transient(self, message: Any, body: List[Any]) -> str:
        name, mode, settings, _ = body
        assert mode == "fail"
        found = dict(settings)
        if "FAIL" in found.get("Description", ""):
            raise Refusal(
                "org.freedesktop.DBus.Error.InvalidArgs", "no such f\u00e4hre"
            )
        unit = Transient(self, name, found)
        for key in found:
            if key.endswith("FileDescriptor"):
                found[key] = message.unix_fds[found[key]]
                unit.fds.append(found[key])
        self.units[name] = unit
        self.start(unit.run())
        return f"{PATH}/job/7"

    async def _stop_slice(self, name: str, inside: List[Transient]) -> None:
        for unit in inside:
            unit.to_stop.set()
        while any(unit.name in self.units for unit in inside):
            await asyncio.sleep(0.01)
        await self.changed(Existing(name, {}))

    def _find(self, name: str) -> Existing:
        units = json.loads(self.configured.read_text())
        if name not in units:
            raise Refusal("NoSuchUnit", f"Unit {name} not found.")
        if name not in self.existing:
            self.existing[name] = Existing(name, units[name])
        return self.existing[name]

    def _get_all(self, path: str) -> Dict[str, Any]:
        for unit in self.units.values():
            if _path(unit.name) == path:
                return _variants(unit.known, unit.known.keys())
        for name in json.loads(self.configured.read_text()):
            if _path(name) == path:
                known = self._find(name).known
                return _variants(known, known.keys())
        gone = Existing("", {"LoadState": "not-found"}).known
        return _variants(gone, gone.keys())

    async def _job(self, member: str, name: str) -> str:
        unit = self._find(name)
        how = unit.how.get(member, {})
        if "error" in how:
            raise Refusal(how["error"], how.get("text", f"no {member}"))
        shared = self.by_unit.get((member, name))
        if shared:
            return shared
        self.number += 1
        path = f"{PATH}/job/{self.number}"
        self.jobs[path] = asyncio.Event()
        self.by_unit[member, name] = path
        job = self._work(unit, path, member, how)
        if how.get("early"):
            await job
        else:
            self.start(job)
        return path

    async def _work(
        self, unit: Existing, path: str, member: str, how: Dict[str, Any]
    ) -> None:
        from dbus_fast.message import Message

        result = how.get("result", "done")
        try:
            await asyncio.wait_for(
                self.jobs[path].wait(), how.get("delay", 0.0)
            )
            result = "canceled"
        except asyncio.TimeoutError:
            unit.known.update(how.get("then", {}))
        del self.jobs[path], self.by_unit[member, unit.name]
        await self.send(
            Message.new_signal(
                PATH,
                MANAGER,
                "JobRemoved",
                "uoss",
                [self.number, path, unit.name, result],
            )
        )
        await asyncio.sleep(0.01)
        unit.known.update(how.get("later", {}))


def _error(message: Any, name: str, text: str) -> Any:
    from dbus_fast.constants import MessageType
    from dbus_fast.message import Message

    return Message(
        message_type=MessageType.ERROR,
        destination=message.sender,
        reply_serial=message.serial,
        error_name=name,
        signature="s",
        body=[text],
    )


def _variant(name: str, value: Any) -> Any:
    from dbus_fast.signature import Variant

    kind = "s" if isinstance(value, str) else "u"
    value = bytes(value) if name == "InvocationID" else value
    return Variant(_SIGNATURES.get(name, kind), value)


def _variants(known: Dict[str, Any], names: Any) -> Dict[str, Any]:
    return {n: _variant(n, known[n]) for n in names if n in known}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "signature"):
        return _plain(value.value)
    return value


class _Socket(socket.socket):
    """Lets dbus-fast receive more descriptors than one."""

    def recvmsg(self, size: int, room: int = 0, flags: int = 0) -> Any:
        return super().recvmsg(size, socket.CMSG_LEN(64), flags)


def main() -> None:
    address, units, log = sys.argv[1:]
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        os.read(reader, 1)
        print(pid)
        return
    os.close(reader)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    # PR_SET_CHILD_SUBREAPER: it reaps what its units leave.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    asyncio.run(_serve(address, Path(units), Path(log), writer))


async def _serve(address: str, units: Path, log: Path, ready: int) -> None:
    await Fake(address, units, log).serve(ready)


if __name__ == "__main__":
    main()
