"""Notices to systemd, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Iterator, List, Optional

import pytest

from ngcp_task_agent.daemon import systemd as service
from ngcp_task_agent.daemon.systemd import Notifier, watchdog_interval
from tests.unit.fakes import until

# sdnotify never closes its socket; the agent keeps one until it exits.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


class Systemd:
    """Receives notices."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.all: List[str] = []

    def notices(self) -> List[str]:
        """Return the notices since the last call."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                self.all += found
                return found

    def fill(self) -> None:
        """Send other notices until no more fit; ``notices`` reads them."""
        with contextlib.suppress(BlockingIOError):
            while True:
                # The queue of the socket is to be full, not a send buffer.
                other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                with other:
                    other.setblocking(False)
                    other.sendto(b"another", self.socket.getsockname())


@pytest.fixture
def systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    made = Systemd(tmp_path / "n")
    yield made
    made.socket.close()


def test_ready(systemd: Systemd) -> None:
    Notifier().ready()
    assert systemd.notices() == ["READY=1"]


def test_reloading(systemd: Systemd) -> None:
    before = time.monotonic()
    Notifier().reloading()
    (notice,) = systemd.notices()
    first, second = notice.split("\n")
    assert first == "RELOADING=1"
    name, _, usec = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert int(before * 1e6) <= int(usec) <= int(time.monotonic() * 1e6)


def test_stopping(systemd: Systemd) -> None:
    Notifier().stopping(20.5)
    (notice,) = systemd.notices()
    assert notice.split("\n") == [
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=20500000",
    ]


def test_status_is_sent_when_it_changes(systemd: Systemd) -> None:
    notifier = Notifier()
    for text in ("a", "a", "b", "b", "a"):
        notifier.status(text)
    assert systemd.notices() == ["STATUS=a", "STATUS=b", "STATUS=a"]


def test_status_is_ascii(systemd: Systemd) -> None:
    Notifier().status("3 \u00b7 \u20ac")
    assert systemd.notices() == ["STATUS=3 ? ?"]


def test_status_is_one_line(systemd: Systemd) -> None:
    """Another line would be another notice, such as MAINPID=."""
    Notifier().status("a\nMAINPID=1\r\x1b[31m\x7f\t~")
    assert systemd.notices() == ["STATUS=a?MAINPID=1??[31m??~"]


async def test_keep_alive(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    statuses = iter(["a", "b"])
    alive = asyncio.create_task(
        Notifier().keep_alive(lambda: next(statuses, "c"))
    )
    await until(lambda: systemd.notices() and len(systemd.all) > 5)
    alive.cancel()
    await asyncio.wait({alive})
    assert systemd.all[:4] == [
        "WATCHDOG=1",
        "STATUS=a",
        "WATCHDOG=1",
        "STATUS=b",
    ]
    assert systemd.all.count("STATUS=c") == 1


async def test_without_a_watchdog_only_the_status(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STATUS_EVERY", 0.01)
    texts = iter("abc")
    alive = asyncio.create_task(
        Notifier().keep_alive(lambda: next(texts, "c"))
    )
    await until(lambda: systemd.notices() and len(systemd.all) == 3)
    alive.cancel()
    await asyncio.wait({alive})
    assert systemd.all == ["STATUS=a", "STATUS=b", "STATUS=c"]


async def test_a_blocked_loop_does_not_feed_the_watchdog(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    alive = asyncio.create_task(Notifier().keep_alive(lambda: ""))
    await until(systemd.notices)
    systemd.notices()
    time.sleep(0.2)  # blocks the loop
    assert systemd.notices() == []
    alive.cancel()
    await asyncio.wait({alive})


def test_unsent_notices_are_sent_with_the_next(systemd: Systemd) -> None:
    notifier = Notifier()
    systemd.fill()
    notifier.status("a")
    notifier.reloading()
    notifier.status("b")
    notifier.ready()
    assert set(systemd.notices()) == {"another"}
    notifier.status("c")
    (notice,) = systemd.notices()
    # Of each kind only the last counts, also for systemd.
    assert sorted(notice.split("\n")) == ["READY=1", "STATUS=c"]
    notifier.status("d")
    assert systemd.notices() == ["STATUS=d"]


def test_stopping_is_not_lost(systemd: Systemd) -> None:
    notifier = Notifier()
    systemd.fill()
    notifier.reloading()
    notifier.stopping(1)
    systemd.notices()
    notifier.status("a")
    (notice,) = systemd.notices()
    assert sorted(notice.split("\n")) == [
        "EXTEND_TIMEOUT_USEC=1000000",
        "STATUS=a",
        "STOPPING=1",
    ]


@pytest.mark.parametrize("watchdog", ["20000", ""])
async def test_unread_notices(
    watchdog: str, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop keeps running; they arrive once they are read."""
    monkeypatch.setenv("WATCHDOG_USEC", watchdog)
    monkeypatch.setattr(service, "_STATUS_EVERY", 0.01)
    systemd.fill()
    beats: List[str] = []

    def status() -> str:
        beats.append("the same")
        return beats[-1]

    notifier = Notifier()
    notifier.ready()
    alive = asyncio.create_task(notifier.keep_alive(status))
    await until(lambda: len(beats) > 20)
    assert set(systemd.notices()) == {"another"}
    await until(systemd.notices)
    lines = "\n".join(systemd.all).split("\n")
    assert lines.count("READY=1") == lines.count("STATUS=the same") == 1
    alive.cancel()
    await asyncio.wait({alive})


def test_without_systemd_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready()
    notifier.reloading()
    notifier.stopping(1)
    notifier.status("x")


def test_systemd_that_has_disappeared(systemd: Systemd) -> None:
    notifier = Notifier()
    systemd.socket.close()
    notifier.ready()


INTERVALS = [
    pytest.param(None, None, None, id="none"),
    pytest.param("3000000", None, 3.0, id="seconds"),
    pytest.param("500000", None, 0.5, id="less"),
    pytest.param("3000000", "own", 3.0, id="own-pid"),
    pytest.param("3000000", "1", None, id="another-s-pid"),
    pytest.param("0", None, None, id="zero"),
    pytest.param("", None, None, id="empty"),
    pytest.param("x", None, None, id="no-number"),
    pytest.param("-5", None, None, id="negative"),
]


@pytest.mark.parametrize(("usec", "pid", "expected"), INTERVALS)
def test_watchdog_interval(
    usec: Optional[str],
    pid: Optional[str],
    expected: Optional[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = str(os.getpid()) if pid == "own" else pid
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", own)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == expected
