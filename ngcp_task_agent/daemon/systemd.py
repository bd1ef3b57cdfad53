"""systemd: readiness, reload notices, status and watchdog, sd_notify(3).

Without systemd, that is without $NOTIFY_SOCKET, all of it does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Callable, Dict, Optional

import sdnotify

_STATUS_EVERY = 1.0  # seconds


class Notifier:
    """Tells systemd what the agent is doing.

    It never waits: a notice that cannot be sent now, because systemd does
    not read, is sent with the next one, or with the next heartbeat.
    """

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        if self._notifier.socket:
            self._notifier.socket.setblocking(False)
            # Else it hides that a notice could not be sent.
            self._notifier.debug = True
        self._status = ""
        # By kind: only the last of each still matters.
        self._unsent: Dict[str, str] = {}

    def ready(self) -> None:
        """The start or a reload has finished."""
        self._send("state", "READY=1")

    def reloading(self) -> None:
        """A reload begins; ready() must follow."""
        # The time is what systemd 253 and newer ask for; older ignore it.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("state", f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self, within: float) -> None:
        """The end begins, and may take that many seconds."""
        self._send(
            "state", f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}"
        )

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows, if it differs from before.

        sdnotify cannot send what is not Latin-1, so only ASCII is sent.
        """
        text = text.encode("ascii", "replace").decode()
        if text != self._status:
            self._status = text
            self._unsent["status"] = f"STATUS={text}"
        self._send_unsent()

    async def keep_alive(self, status: Callable[[], str]) -> None:
        """Feed the watchdog and keep the status up to date, for ever.

        It is the event loop's own liveness that feeds the watchdog: what
        blocks the loop lets systemd restart the service.
        """
        watchdog = watchdog_interval()
        beat = min(watchdog / 2, _STATUS_EVERY) if watchdog else _STATUS_EVERY
        while True:
            if watchdog:
                self._send("watchdog", "WATCHDOG=1")
            self.status(status())
            await asyncio.sleep(beat)

    def _send(self, kind: str, notice: str) -> None:
        self._unsent[kind] = notice
        self._send_unsent()

    def _send_unsent(self) -> None:
        if self._unsent and self._notifier.socket:
            with contextlib.suppress(OSError):
                self._notifier.notify("\n".join(self._unsent.values()))
                self._unsent.clear()


def watchdog_interval() -> Optional[float]:
    """Seconds in which systemd wants a heartbeat, or None."""
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1e6
