"""The life of the package: from installation to purge."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Set

import pytest

from tests.system.conftest import install, put
from tests.system.machine import CONFIG, UNIT, Machine, until
from tests.system.packages import NEXT

NAMES = ("ngcp-task-agent", "ngcp-task-client", "python3-ngcp-task-agent")
AGENT, CLIENT, _ = NAMES
# Files that the system changes with any package.
_SYSTEM = (
    *("dev", "proc", "run", "sys", "tmp", "srv/packages", "srv/next"),
    *("var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "var/tmp"),
    *("etc/ld.so.cache", "root", "var/lib/systemd", "var/lib/redis"),
)


@pytest.fixture
def machine(
    new_machine: Callable[[str], Machine],
    request: pytest.FixtureRequest,
    built: List[Path],
) -> Machine:
    """A machine without the package; its files are in /srv/packages."""
    machine = new_machine(f"life{len(request.node.name)}")
    put(machine, built, "/srv/packages")
    return machine


def state(machine: Machine, name: str) -> str:
    """Return a package's state, as in the first column of ``dpkg --list``."""
    done = machine.run(
        *("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}", name),
        check=False,
    )
    return done.stdout.strip()


def version(machine: Machine) -> str:
    return machine.out("ngcp-task-agent", "--version").split()[-1]


def files(machine: Machine) -> Set[str]:
    """Return all files and folders, except those that the system changes."""
    prune = [word for name in _SYSTEM for word in ("-path", f"./{name}", "-o")]
    found = machine.shell(
        'cd /; exec find . -xdev \\( "$@" \\) -prune -o -print', *prune[:-1]
    )
    return set(found.splitlines())


def test_installed_without_systemd_it_runs_after_the_boot(
    machine: Machine,
) -> None:
    """As in the chroot of an installer; it also runs after a reboot."""
    machine.chroot("sh", "-c", "apt-get install --yes /srv/packages/*.deb")
    machine.boot()
    assert machine.is_active()
    machine.task("hello", "echo", "hello")
    machine.reboot()
    machine.wait_for_redis()
    assert machine.ask("hello")[1]["data"] == "hello\n"
    machine.power_off()


def test_from_install_to_purge(
    machine: Machine, built: List[Path], upgrade: List[Path]
) -> None:
    machine.boot()
    before = files(machine)

    install(machine, built)
    assert machine.is_active()
    assert state(machine, AGENT) == "ii"
    old = version(machine)
    process = machine.property("MainPID")

    machine.run(
        *("apt-get", "install", "--reinstall", "--yes"),
        *put(machine, built, "/srv/packages"),
    )
    assert machine.is_active()
    assert machine.property("MainPID") != process

    # The administrator has changed a conffile that the upgrade also changes.
    redis = f"{CONFIG}/backends/redis.yml"
    mine = machine.read(redis) + "ping_interval: 7\n"
    machine.write(redis, mine)
    machine.run("rm", f"{CONFIG}/tasks/clear_call_counters.yml")
    machine.task("hello", "echo", "hello")
    machine.run(
        *(
            "apt-get",
            "install",
            "--yes",
            "-o",
            "Dpkg::Options::=--force-confold",
        ),
        *put(machine, upgrade, "/srv/next"),
    )
    assert version(machine) == NEXT != old
    assert machine.read(redis) == mine
    assert not machine.exists(f"{CONFIG}/tasks/clear_call_counters.yml")
    assert machine.is_active()
    assert f"{NEXT} has started" in machine.journal()
    machine.wait_for_redis()
    assert machine.ask("hello")[1]["data"] == "hello\n"

    machine.run("apt-get", "remove", "--yes", *NAMES)
    assert not machine.is_active()
    assert not machine.cgroup()
    assert machine.read(redis) == mine
    assert not machine.exists("/run/ngcp-task-agent")

    machine.run("apt-get", "purge", "--yes", *NAMES)
    assert {state(machine, name) for name in NAMES} <= {"", "un"}
    left = files(machine) - before
    task = f"{CONFIG}/tasks/hello.yml"
    made = {f".{path}" for path in (CONFIG, f"{CONFIG}/tasks", task)}
    assert left == made
    assert not before - files(machine)
    assert not machine.run(
        *("find", "/var/lib/systemd", "-name", "*ngcp-task-agent*")
    ).stdout
    assert "loaded" not in machine.property("LoadState")
    machine.power_off()


def test_upgrade_moves_the_client_to_its_own_package(
    machine: Machine, built: List[Path], before_client: List[Path]
) -> None:
    machine.boot()
    install(machine, before_client)
    assert state(machine, CLIENT) in ("", "un")
    moved = owned(machine, AGENT)
    assert "/usr/bin/ngcp-invoke-task" in moved
    process = machine.property("MainPID")

    install(machine, built)
    assert {state(machine, name) for name in NAMES} == {"ii"}
    assert machine.property("MainPID") != process
    moved -= owned(machine, AGENT)
    assert "/usr/bin/ngcp-invoke-task" in moved
    assert moved <= owned(machine, CLIENT)
    for path in moved:
        assert machine.exists(path), path
    assert not machine.out("dpkg", "--audit")
    assert not machine.out("dpkg", "--verify", *NAMES)
    machine.power_off()


def owned(machine: Machine, package: str) -> Set[str]:
    """Return the files of an installed package, without folders and its
    documentation."""
    script = """
        dpkg-query --listfiles "$1" | while read -r path; do
            [ -d "$path" ] || echo "$path"
        done | grep -v ^/usr/share/doc/
    """
    return set(machine.shell(script, package).splitlines())


def test_a_task_may_upgrade_the_package(
    machine: Machine, built: List[Path], upgrade: List[Path]
) -> None:
    """The task ends and is answered; then the new code takes over."""
    machine.boot()
    install(machine, built)
    old = version(machine)
    # Shorter than the rest of the task after the upgrade.
    machine.write(f"{CONFIG}/agent.yml", "stop_timeout: 1\n")
    machine.task("hello", "echo", "hello")
    upgrades(machine, "command", put(machine, upgrade, "/srv/next"), NEXT)
    # Back again is an upgrade, too.
    upgrades(machine, "systemd", put(machine, built, "/srv/packages"), old)
    machine.power_off()


def upgrades(
    machine: Machine, broker: str, paths: List[str], new: str
) -> None:
    """Install packages by a task."""
    script = (
        "export DEBIAN_FRONTEND=noninteractive\n"
        'apt-get install --yes --allow-downgrades "$@" && sleep 8 && '
        "dpkg --audit && echo the end && ngcp-task-agent --version"
    )
    machine.task("upgrade", "sh", ["-c", script, "sh", *paths], broker=broker)
    machine.systemctl("reload", UNIT)
    machine.wait_for_redis()
    process = machine.property("MainPID")
    cursor = machine.cursor()
    asking = machine.start_asking("upgrade")
    assert asking.next()["status"] == "accepted"
    until(lambda: state_version(machine) == f"ii {new}")
    # Other requests are served in the meantime.
    assert machine.ask("hello")[1]["status"] == "done"
    [answer] = asking.answers()
    assert answer["status"] == "done", answer
    assert answer["data"].endswith(f"the end\nngcp-task-agent {new}\n")
    assert "is restarted when the task" in answer["data"]
    until(lambda: machine.property("MainPID") not in ("0", process))
    until(machine.is_active)
    assert f"{new} has started" in machine.journal(after=cursor)
    machine.wait_for_redis()
    assert machine.ask("hello")[1]["status"] == "done"


def state_version(machine: Machine) -> str:
    """Return the version if it is fully installed."""
    return machine.out(
        *("dpkg-query", "--show", "-f=${db:Status-Abbrev}${Version}", AGENT)
    )
