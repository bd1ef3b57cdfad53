"""systemd: readiness, reload notices, status and watchdog, sd_notify(3).

Without systemd, that is without $NOTIFY_SOCKET, all of it does nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Callable, Optional

import sdnotify

_STATUS_EVERY = 1.0  # seconds


class Notifier:
    """Tells systemd what the agent is doing."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""

    def ready(self) -> None:
        """The start or a reload has finished."""
        self._notifier.notify("READY=1")

    def reloading(self) -> None:
        """A reload begins; ready() must follow."""
        # The time is what systemd 253 and newer ask for; older ignore it.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self, within: float) -> None:
        """The end begins, and may take that many seconds."""
        self._notifier.notify(
            f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}"
        )

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows, if it differs from before.

        sdnotify loses what is not Latin-1, so nothing but ASCII is sent.
        """
        text = text.encode("ascii", "replace").decode()
        if text != self._status:
            self._status = text
            self._notifier.notify(f"STATUS={text}")

    async def keep_alive(self, status: Callable[[], str]) -> None:
        """Feed the watchdog and keep the status up to date, for ever.

        It is the event loop's own liveness that feeds the watchdog: what
        blocks the loop lets systemd restart the service.
        """
        watchdog = watchdog_interval()
        beat = min(watchdog / 2, _STATUS_EVERY) if watchdog else _STATUS_EVERY
        while True:
            if watchdog:
                self._notifier.notify("WATCHDOG=1")
            self.status(status())
            await asyncio.sleep(beat)


def watchdog_interval() -> Optional[float]:
    """Seconds in which systemd wants a heartbeat, or None."""
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1e6
