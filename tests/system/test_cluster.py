"""Two nodes on one Redis, each taking only its own requests, and a client."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator, List, Sequence, Tuple

import pytest

from tests.system.conftest import put
from tests.system.machine import CONFIG, UNIT, Machine

AGENT = "ngcp-task-agent_"  # begins the name of its file


@pytest.fixture(scope="module")
def nodes(
    new_machine: Callable[[str], Machine],
    built: List[Path],
    extra_address: str,
) -> Iterator[Tuple[Machine, Machine]]:
    """A proxy with Redis, and a load balancer without."""
    machines = new_machine("prx01b"), new_machine("lb01a")
    for machine, role in zip(machines, ("PROXY", "LB")):
        put(machine, built, "/srv/packages")
        machine.chroot("sh", "-c", "apt-get install --yes /srv/packages/*.deb")
        roles = machine.root / "etc/default/ngcp-roles"
        roles.write_text(f'NGCP_IS_{role}="yes"\n')
    # They share the loopback device.  The server has two addresses there: one
    # of this machine, and one as of another host.
    settings = machines[0].root / "etc/redis/redis.conf"
    with settings.open("a") as file:
        file.write(f"bind 127.0.0.1 {extra_address}\nprotected-mode no\n")
    machines[1].chroot("systemctl", "disable", "redis-server")
    backend = machines[1].root / "etc/ngcp-task-agent/backends/redis.yml"
    backend.write_text(f"host: {extra_address}\n")
    for machine in machines:
        machine.boot()
        machine.task("name", "hostname")
        machine.systemctl("reload", UNIT)
        machine.wait_for_redis()
    yield machines
    for machine in machines:
        machine.power_off()


@pytest.fixture
def workstation(
    new_machine: Callable[[str], Machine],
    built: List[Path],
    nodes: Tuple[Machine, Machine],
) -> Iterator[Machine]:
    """A machine with the client's package, and not the agent's."""
    machine = new_machine("desk")
    put(
        machine,
        [file for file in built if not file.name.startswith(AGENT)],
        "/srv/packages",
    )
    machine.chroot("sh", "-c", "apt-get install --yes /srv/packages/*.deb")
    machine.chroot("systemctl", "disable", "redis-server")
    machine.boot()
    yield machine
    machine.power_off()


def who_acts(
    nodes: Sequence[Machine], endings: int, dst: str, src: str = "web01a"
) -> str:
    """Return the nodes that run a request sent from the load balancer.

    :param nodes: all nodes that receive it
    """
    answers = nodes[-1].ask(
        "name", dst=dst, src=src, endings=endings, nodes=len(nodes)
    )
    for answer in answers:
        assert answer["status"] in ("accepted", "done"), answer
        if answer["status"] == "done":
            assert answer["data"] == f"{answer['src']}\n"
    return " ".join(sorted({answer["src"] for answer in answers}))


@pytest.mark.parametrize(
    ("dst", "expected"),
    [
        ("*", "lb01a prx01b"),
        ("prx01b", "prx01b"),
        ("lb*", "lb01a"),
        ("*|role=proxy", "prx01b"),
        ("*|state=active;role=proxy+lb", "lb01a prx01b"),
        ("prx01?,lb01a|state=standby", "prx01b"),
        ("db*", ""),
    ],
)
def test_who_acts(
    nodes: Tuple[Machine, Machine], dst: str, expected: str
) -> None:
    endings = len(expected.split())
    assert who_acts(nodes, endings, dst) == expected


def test_local_depends_on_the_source_for_a_server_on_the_network(
    nodes: Tuple[Machine, Machine],
) -> None:
    """A request through it may come from anywhere."""
    assert who_acts(nodes, 0, "local", "somebody") == ""
    assert who_acts(nodes, 1, "local", "PRX01B") == "prx01b"


def test_a_workstation_needs_no_agent(
    workstation: Machine, extra_address: str
) -> None:
    assert workstation.property("LoadState") == "not-found"
    assert not workstation.exists(CONFIG)
    assert not workstation.exists("/usr/sbin/ngcp-task-agent")
    assert workstation.out("man", "--where", "ngcp-invoke-task")
    assert workstation.complete("ngcp-invoke-task", "--outp") == ["--output"]
    printed = workstation.run_as(
        *("nobody", "ngcp-invoke-task", "--task", "name", "--dst", "*"),
        *("--url", f"redis://{extra_address}"),
    ).stdout
    assert sorted(printed.split()) == ["lb01a", "prx01b"]


def test_one_node_stops_and_the_other_goes_on(
    nodes: Tuple[Machine, Machine],
) -> None:
    nodes[0].systemctl("stop", UNIT)
    assert who_acts(nodes[1:], 1, "*") == "lb01a"
    nodes[0].systemctl("start", UNIT)
    nodes[0].wait_for_redis()
    assert who_acts(nodes, 2, "*") == "lb01a prx01b"
