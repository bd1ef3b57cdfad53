"""systemd: readiness, reload notices, status and watchdog, sd_notify(3).

Does nothing without $NOTIFY_SOCKET.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Callable, Dict, Optional

import sdnotify

_STATUS_EVERY = 2.0  # seconds


class Notifier:
    """Notifies systemd of what the agent is doing; never waits.

    A notice that cannot be sent because systemd is not reading is sent with
    the next notice or heartbeat.
    """

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        if self._notifier.socket:
            self._notifier.socket.setblocking(False)
            # Otherwise it hides that a notice could not be sent.
            self._notifier.debug = True
        self._status = ""
        # By kind: only the latest of each kind matters.
        self._unsent: Dict[str, str] = {}

    def ready(self) -> None:
        """Report that the start or a reload has finished."""
        self._send("state", "READY=1")

    def reloading(self) -> None:
        """Report that a reload begins; ready() must follow."""
        # systemd 253 and newer require the time; older versions ignore it.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("state", f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self, within: float) -> None:
        """Report that the agent is stopping, within this many seconds."""
        self._send(
            "state", f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}"
        )

    def status(self, text: str) -> None:
        """Set what ``systemctl status`` shows.

        Only printable ASCII: sdnotify can send nothing beyond Latin-1, and
        another line would be another notice.
        """
        text = "".join(c if " " <= c <= "~" else "?" for c in text)
        if text != self._status:
            self._status = text
            self._unsent["status"] = f"STATUS={text}"
        self._send_unsent()

    async def keep_alive(self, status: Callable[[], str]) -> None:
        """Feed the watchdog and keep the status up to date, forever.

        A blocked event loop stops feeding it, so systemd restarts the agent.
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
    """Return the watchdog interval in seconds; None if there is none."""
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    usec = os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdigit() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1e6
