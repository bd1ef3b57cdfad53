"""PrivateBus: a message bus for one test."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

_CONFIG = """<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
{policy}</busconfig>
"""


class PrivateBus:
    """A dbus-daemon that lets every user of the machine connect.

    :param folder: where its socket is; others must be able to enter it
    :param policy: more of its configuration
    """

    def __init__(self, folder: Path, policy: str = "") -> None:
        self.socket = folder / "bus"
        self.address = f"unix:path={self.socket}"
        self._config = folder / "bus.conf"
        self._config.write_text(
            _CONFIG.format(socket=self.socket, policy=policy)
        )
        self.pid = 0  # 0 if it does not run

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program = shutil.which("dbus-daemon")
        assert program, "the tests need dbus-daemon (apt install dbus)"
        self.socket.unlink(missing_ok=True)
        # No child: a test waits for those that it has started.
        done = subprocess.run(
            [
                *(program, "--fork", "--nopidfile", "--print-pid"),
                f"--config-file={self._config}",
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.pid = int(done.stdout)

    def stop(self) -> None:
        """Kill it, and wait until it is gone."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
            os.close(pidfd)
        self.pid = 0
