"""The machines that the tests run on.

``make system-test`` boots them.  With ``--here``, the tests of the service use
this machine instead, on which the package must be installed: that is how
Debian's test runner calls them, see debian/tests/control.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from tests.system import packages, rootfs
from tests.system.machine import CONFIG, UNIT, Here, Machine

# The path of the ping task in the documentation.
_EXTRA_ADDRESS = "10.10.10.10"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("machines")
    group.addoption("--here", action="store_true")
    for name in ("--machine-root", "--workshop", "--work", "--cgroup"):
        group.addoption(name, type=Path)


@pytest.fixture(autouse=True)
def _leaves_nothing() -> None:
    """Machines outlive a test: leftovers are checked at the end."""


@pytest.fixture(scope="session")
def work(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.config.getoption("--work")
    if folder is None:
        raise pytest.UsageError("use make system-test, or --here")
    return folder


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest, work: Path) -> packages.Workshop:
    root: Path = request.config.getoption("--workshop")
    if root != Path("/"):
        root = rootfs.mount_copy(root, work / "workshop")
    return packages.Workshop(root)


@pytest.fixture(scope="session")
def built(workshop: packages.Workshop, work: Path) -> List[Path]:
    """The packages' files."""
    return workshop.build(work / "packages")


@pytest.fixture(scope="session")
def upgrade(built: List[Path], work: Path) -> List[Path]:
    """The package files of the next version."""
    return packages.make_next(built, work / "next")


@pytest.fixture(scope="session")
def before_client(built: List[Path], work: Path) -> List[Path]:
    """The package files of the last version that had the client in the
    agent's package.
    """
    return packages.make_before_client(built, work / "before-client")


@pytest.fixture(scope="session")
def new_machine(
    request: pytest.FixtureRequest, work: Path
) -> Iterator[Callable[[str], Machine]]:
    """Makes machines that are off, and stops them at the end."""
    machines: List[Machine] = []

    def new_machine(name: str) -> Machine:
        machine = Machine(
            name,
            request.config.getoption("--machine-root"),
            work / name,
            request.config.getoption("--cgroup") / name,
        )
        machines.append(machine)
        (machine.root / "etc/hostname").write_text(f"{name}\n")
        (machine.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        return machine

    yield new_machine
    try:
        for machine in machines:
            machine.power_off()
    finally:
        for machine in machines:
            machine.kill()


def copy(files: List[Path], folder: Path) -> None:
    """Copy files into a folder, which is made."""
    folder.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def put(machine: Machine, files: List[Path], folder: str) -> List[str]:
    """Copy files to a machine's disk; returns their paths there."""
    copy(files, machine.root / folder.lstrip("/"))
    return [f"{folder}/{file.name}" for file in files]


def install(machine: Machine, files: List[Path]) -> None:
    """Install packages on a machine, on or off."""
    paths = put(machine, files, "/srv/packages")
    machine.run("apt-get", "install", "--yes", *paths)


# Its Redis takes the port of all machines, so tests of others must come
# before: those of this one are in test_service*.py, last in the alphabet.
@pytest.fixture(scope="session")
def _node(request: pytest.FixtureRequest) -> Here:
    if request.config.getoption("--here"):
        return Here()
    machine: Machine = request.getfixturevalue("new_machine")("prx01a")
    machine.boot()
    install(machine, request.getfixturevalue("built"))
    return machine


@pytest.fixture(scope="session")
def extra_address() -> Iterator[str]:
    """A second address for all nodes."""
    command = ["ip", "address", "add", f"{_EXTRA_ADDRESS}/32", "dev", "lo"]
    subprocess.run(command, check=True)
    yield _EXTRA_ADDRESS
    command[2] = "delete"
    subprocess.run(command, check=True)


@contextlib.contextmanager
def reset_after(node: Here) -> Iterator[Here]:
    """Start the agent and Redis on a node, and undo what is changed there."""
    node.run("cp", "-a", CONFIG, "/srv/configuration")
    node.systemctl("start", "redis-server", UNIT)
    node.wait_for_redis()
    yield node
    dropin = f"/run/systemd/system/{UNIT}.d"
    node.remove(CONFIG, dropin)
    node.run("mv", "/srv/configuration", CONFIG)
    node.systemctl("daemon-reload")
    node.systemctl("start", "redis-server")
    node.run("systemctl", "reset-failed", UNIT, check=False)
    node.systemctl("restart", UNIT)


@pytest.fixture
def node(_node: Here, extra_address: str) -> Iterator[Here]:
    """A node that runs the agent and Redis, reset for each test."""
    with reset_after(_node) as node:
        yield node


@pytest.fixture(scope="module")
def shared(_node: Here, extra_address: str) -> Iterator[Here]:
    """The same, for tests of a module that leave it as they find it."""
    with reset_after(_node) as node:
        yield node
