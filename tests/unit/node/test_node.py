"""The node's identity: configured, or found."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import socket
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from ngcp_task_agent.config.models import NodeConfig
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node import node as node_module
from ngcp_task_agent.node.node import Node
from ngcp_task_agent.protocol.identity import Identity
from tests.unit.fakes import Records, has_children, until, write


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Host.example.net")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll without a pause."""
    monkeypatch.setattr(node_module, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(node_module, "LONGEST_PAUSE", 0.02)


async def found(root: Path, **config: Any) -> Identity:
    node = Node(NodeConfig(**config), root)
    await node.start()
    try:
        return node.identity()
    finally:
        await node.stop()
        await until(lambda: not has_children())


def state_program(root: Path, script: str) -> Path:
    path = write(root / "usr/sbin/ngcp-check-active", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_plain_machine(tmp_path: Path) -> None:
    who = await found(tmp_path)
    assert who.name == "Host"
    assert who.names == {"host", "host.example.net"}
    assert who.facts == {
        "state": ("active",),
        "status": ("online",),
        "role": (),
    }


NAMES: List[Any] = [
    pytest.param({}, None, "Host", id="host-name"),
    pytest.param({"ngcp_nodename": "sp1\n"}, None, "sp1", id="node-name"),
    pytest.param(
        {"ngcp_nodename": "sp1\n", "ngcp_hostname": " prx01a \nx\n"},
        None,
        "prx01a",
        id="host-name-of-ngcp",
    ),
    pytest.param({"ngcp_hostname": "prx01a"}, "mine", "mine", id="configured"),
    pytest.param({"ngcp_hostname": "\n"}, None, "Host", id="empty-file"),
    pytest.param(
        {"ngcp_hostname": "x" * 300 + "\n"}, None, "x" * 255, id="long"
    ),
    pytest.param({"ngcp_hostname": ""}, None, "Host", id="no-line"),
]


@pytest.mark.parametrize(("files", "configured", "name"), NAMES)
async def test_name(
    files: Dict[str, str], configured: Any, name: str, tmp_path: Path
) -> None:
    for file, text in files.items():
        write(tmp_path / "etc" / file, text)
    who = await found(tmp_path, name=configured)
    assert who.name == name
    # The host's own names always count, and so does the current name.
    assert {name.lower(), "host", "host.example.net"} <= who.names


async def test_aliases_and_full_names(tmp_path: Path) -> None:
    write(
        tmp_path / "etc/hosts",
        "127.0.0.1 localhost\n"
        "10.0.0.1 host.lan HOST.WAN hostess.lan # host.comment\n"
        "# 10.0.0.2 host.none\n",
    )
    who = await found(tmp_path, aliases=("Boss", "boss.example.org"))
    assert who.names == {
        "host",
        "host.example.net",
        "host.lan",
        "host.wan",
        "boss",
        "boss.example.org",
    }


ROLES: List[Any] = [
    pytest.param('NGCP_IS_PROXY="yes"\n', ("proxy",), id="quoted"),
    pytest.param(
        "NGCP_IS_DB=yes\nNGCP_IS_LB='true'\n", ("db", "lb"), id="two"
    ),
    pytest.param('NGCP_IS_LB="no"\nNGCP_IS_DB=false\n', (), id="no"),
    pytest.param('  export NGCP_IS_LB="YES"  # x\n', ("lb",), id="export"),
    pytest.param('# NGCP_IS_LB="yes"\n', (), id="comment"),
    pytest.param(
        "NGCP_IS_MULTI_SITE=yes\nNGCP_TYPE=carrier\n", (), id="other"
    ),
    pytest.param("NGCP_IS_LI_DIST=yes\n", ("li_dist",), id="li_dist"),
    pytest.param('NGCP_IS_LB="yes\n', (), id="half-a-quote"),
    pytest.param(
        "NGCP_IS_LB=yes\nNGCP_IS_DB=no\nNGCP_IS_LB=no\nNGCP_IS_DB=yes\n",
        ("db",),
        id="last-wins",
    ),
    pytest.param(
        "NGCP_IS_LB=yes\nNGCP_IS_LB=$(false)\n", (), id="last-is-odd"
    ),
    pytest.param("NGCP_IS_LB=yes;\n", ("lb",), id="semicolon"),
    pytest.param("NGCP_IS_LB='yes' ; # x\n", ("lb",), id="both"),
    pytest.param("NGCP_IS_LB=yes;# x=no\n", ("lb",), id="comment-at-once"),
    pytest.param("NGCP_IS_LB=yes#x\n", (), id="no-comment"),
    pytest.param("NGCP_IS_LB=yes;;\n", (), id="no-shell"),
    pytest.param("NGCP_IS_LB=\n\nyes\n", (), id="nothing"),
    pytest.param("", (), id="empty"),
]


@pytest.mark.parametrize(("text", "roles"), ROLES)
async def test_roles(
    text: str, roles: Tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path / "etc/default/ngcp-roles", text)
    assert (await found(tmp_path)).facts["role"] == roles
    who = await found(tmp_path, roles=("mine",))
    assert who.facts["role"] == ("mine",)
    assert (await found(tmp_path, roles=())).facts["role"] == ()


STATUS: List[Any] = [
    pytest.param("hosts: {host: {status: offline}}", "offline", id="found"),
    pytest.param("hosts: {HOST: {status: offline}}", "offline", id="case"),
    pytest.param("hosts: {self: {status: inactive}}", "inactive", id="self"),
    pytest.param(
        "hosts: {self: {status: a}, host: {status: b}}", "b", id="own-first"
    ),
    pytest.param("hosts: {other: {status: offline}}", "online", id="others"),
    pytest.param("hosts: {host: {}}", "online", id="no-status"),
    pytest.param("hosts: {host: {status: 1}}", "online", id="odd-status"),
    pytest.param("hosts: []", "online", id="odd-hosts"),
    pytest.param("[]", "online", id="odd-file"),
    pytest.param("", "online", id="empty"),
    pytest.param("hosts: [", "unknown", id="broken"),
    pytest.param("a: !!bool maybe", "unknown", id="broken-tag"),
    pytest.param("[" * 5000, "unknown", id="broken-and-deep"),
]


@pytest.mark.parametrize(("text", "status"), STATUS)
async def test_status(text: str, status: str, tmp_path: Path) -> None:
    write(tmp_path / "etc/ngcp-config/network.yml", text)
    assert (await found(tmp_path)).facts["status"] == (status,)
    who = await found(tmp_path, status="mine")
    assert who.facts["status"] == ("mine",)


STATE: List[Any] = [
    pytest.param("echo active", "active", "", id="active"),
    pytest.param("echo Standby", "standby", "", id="standby"),
    pytest.param("echo transition", "transition", "", id="transition"),
    pytest.param("echo standby; exit 1", "standby", "", id="standby-failed"),
    pytest.param(
        "echo active; exit 1", "unknown", "exit status 1", id="active-failed"
    ),
    pytest.param(
        "echo active; echo x >&2", "unknown", "standard error", id="stderr"
    ),
    pytest.param("exit 0", "unknown", "one word", id="nothing"),
    pytest.param("printf ' \\t \\n'", "unknown", "one word", id="blanks"),
    pytest.param("echo not active", "unknown", "one word", id="two-words"),
    pytest.param("yes", "unknown", "too much", id="endless"),
    pytest.param("printf '\\377'", "\ufffd", "", id="not-utf-8"),
]


@pytest.mark.parametrize(("script", "state", "why"), STATE)
async def test_state(
    script: str, state: str, why: str, tmp_path: Path, journal_records: Records
) -> None:
    state_program(tmp_path, script)
    assert (await found(tmp_path)).facts["state"] == (state,)
    kind = journal.NODE_UNKNOWN if why else journal.NODE_CHANGED
    assert why in journal_records.texts(kind)[0]
    # The configuration takes precedence.
    who = await found(tmp_path, state="mine")
    assert who.facts["state"] == ("mine",)


async def test_state_command(tmp_path: Path) -> None:
    who = await found(tmp_path, state_command=("echo", "hot"))
    assert who.facts["state"] == ("hot",)
    who = await found(tmp_path, state_command=("no-such-program",))
    assert who.facts["state"] == ("unknown",)


async def test_state_command_has_a_deadline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    monkeypatch.setattr(node_module, "STATE_TIMEOUT", 0.1)
    who = await found(tmp_path, state_command=("sleep", "600"))
    assert who.facts["state"] == ("unknown",)
    assert "too long" in journal_records.texts(journal.NODE_UNKNOWN)[0]


async def test_state_is_unknown_before_it_was_read(tmp_path: Path) -> None:
    state_program(tmp_path, "echo active")
    node = Node(NodeConfig(), tmp_path)
    assert node.identity().facts["state"] == ("unknown",)


async def test_an_old_state_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_program(tmp_path, "echo active")
    node = Node(NodeConfig(), tmp_path)
    await node.start()
    await node.stop()
    assert node.identity().facts["state"] == ("active",)
    later = time.monotonic() + 1.01
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert node.identity().facts["state"] == ("unknown",)


@pytest.fixture
def changing(tmp_path: Path) -> Path:
    state_program(tmp_path, f"cat {tmp_path}/state")
    write(tmp_path / "state", "active\n")
    write(tmp_path / "etc/default/ngcp-roles", "NGCP_IS_LB=yes\n")
    write(
        tmp_path / "etc/ngcp-config/network.yml",
        "hosts: {host: {status: online}}\n",
    )
    return tmp_path


def replace(path: Path, text: str) -> None:
    """Replace a file as a careful program does: never half written."""
    new = write(path.with_name("new"), text)
    os.replace(new, path)


async def test_follows_every_change(
    changing: Path, fast: None, journal_records: Records
) -> None:
    node = Node(NodeConfig(), changing)
    await node.start()
    try:
        facts = node.identity().facts
        assert facts["state"] == ("active",)
        assert facts["role"] == ("lb",)
        replace(changing / "state", "standby\n")
        replace(changing / "etc/default/ngcp-roles", "NGCP_IS_DB=yes\n")
        replace(
            changing / "etc/ngcp-config/network.yml",
            "hosts: {host: {status: offline}}\n",
        )
        await until(
            lambda: (
                node.identity().facts
                == {
                    "state": ("standby",),
                    "role": ("db",),
                    "status": ("offline",),
                }
            )
        )
        assert len(journal_records.texts(journal.NODE_CHANGED)) == 2
        # While a file is broken, its last good value stays.
        (changing / "etc/ngcp-config/network.yml").write_text("a: 1\nb: *xyz")
        await until(lambda: journal_records.texts(journal.NODE_UNKNOWN))
        (text,) = journal_records.texts(journal.NODE_UNKNOWN)
        # The file may hold secrets.
        assert text.endswith("network.yml: cannot be read: not YAML in line 2")
        assert node.identity().facts["status"] == ("offline",)
        (changing / "etc/ngcp-config/network.yml").unlink()
        (changing / "etc/default/ngcp-roles").unlink()
        await until(
            lambda: (
                node.identity().facts["status"] == ("online",)
                and node.identity().facts["role"] == ()
            )
        )
    finally:
        await node.stop()
        await until(lambda: not has_children())


async def test_follows_a_change_without_a_new_mtime(
    changing: Path, fast: None
) -> None:
    path = changing / "etc/ngcp-config/network.yml"
    path.write_text("hosts: {host: {status: left}}\n")
    node = Node(NodeConfig(), changing)
    await node.start()
    try:
        assert node.identity().facts["status"] == ("left",)
        times = path.stat()
        path.write_text("hosts: {host: {status: back}}\n")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        await until(lambda: node.identity().facts["status"] == ("back",))
    finally:
        await node.stop()


async def test_reading_is_retried(
    changing: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    """Even if the file does not change: the error may be temporary."""
    tries: List[Path] = []

    def fails(path: Path, **keys: Any) -> str:
        tries.append(path)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    node = Node(NodeConfig(), changing)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", fails)
        await node.start()
        assert node.identity().facts["status"] == ("unknown",)
        assert node.identity().facts["role"] == ()
        await until(lambda: len(tries) > 6)
    try:
        await until(
            lambda: (
                node.identity().facts["status"] == ("online",)
                and node.identity().facts["role"] == ("lb",)
            )
        )
    finally:
        await node.stop()
        await until(lambda: not has_children())
    # One record for each file.
    texts = journal_records.texts(journal.NODE_UNKNOWN)
    assert ["Too many open files" in text for text in texts] == [True, True]


@pytest.mark.parametrize("file", ["ngcp_hostname", "hosts"])
async def test_a_temporary_error_does_not_change_the_name(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "etc" / file, "prx01a")
    read = Path.read_text

    def fails(path: Path, **keys: Any) -> str:
        if path.name == file:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(path, **keys)

    monkeypatch.setattr(Path, "read_text", fails)
    with pytest.raises(OSError, match="Too many open files"):
        Node(NodeConfig(), tmp_path)


async def test_a_slow_state_command_is_logged_once(
    changing: Path,
    fast: None,
    monkeypatch: pytest.MonkeyPatch,
    journal_records: Records,
) -> None:
    monkeypatch.setattr(node_module, "STATE_VALID", 0.2)
    runs = changing / "runs"
    state_program(changing, f"echo >> {runs}; sleep 0.3; echo active")
    node = Node(NodeConfig(), changing)
    await node.start()
    try:
        await until(lambda: len(runs.read_text()) > 3)
    finally:
        await node.stop()
        await until(lambda: not has_children())
    (text,) = journal_records.texts(journal.NODE_UNKNOWN)
    assert text.startswith("state_command: it takes ")


async def test_a_slow_state_command_delays_no_request(
    changing: Path, fast: None
) -> None:
    node = Node(NodeConfig(), changing)
    await node.start()
    runs = changing / "runs"
    state_program(changing, f"touch {runs}; sleep 600")
    await until(runs.exists)
    begin = time.monotonic()
    for _ in range(100):
        node.identity()
    assert time.monotonic() - begin < 5
    await node.stop()
    # Its process is killed, and reaped an instant later.
    await until(lambda: not has_children())


async def test_labels(tmp_path: Path) -> None:
    who = await found(tmp_path, labels={"Site": "vienna"})
    assert who.facts["site"] == ("vienna",)
    assert who.facts["state"] == ("active",)


async def test_a_hanging_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop keeps running while a file is checked."""
    roles = write(tmp_path / "etc/default/ngcp-roles", "NGCP_IS_LB=yes\n")
    asked, answer = threading.Event(), threading.Event()
    stat = os.stat

    def hang(path: Any, **how: Any) -> os.stat_result:
        if path == roles:
            asked.set()
            assert answer.wait(30)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", hang)
    node = Node(NodeConfig(), tmp_path)
    starting = asyncio.create_task(node.start())
    await until(asked.is_set)
    assert not starting.done()
    answer.set()
    await starting
    assert node.identity().facts["role"] == ("lb",)
    await node.stop()


async def test_only_the_constructor_asks_the_name_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_program(tmp_path, "echo standby")
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 8)  # not yet looked up
    node = await asyncio.to_thread(Node, NodeConfig(), tmp_path)

    def refuse(uid: int) -> None:
        raise AssertionError("asked on the event loop")

    monkeypatch.setattr(pwd, "getpwuid", refuse)
    await node.start()
    assert node.identity().facts["state"] == ("standby",)
    await node.stop()
    await until(lambda: not has_children())
