"""A terminal for a command, as a person would have it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import Any, List, Tuple

import pytest

from tests.invoking import environment
from tests.parts import WITHIN


class Terminal:
    """A command on its own terminal.

    :param output: where standard output goes; the terminal by default
    :param size: columns and lines
    """

    def __init__(
        self,
        words: List[str],
        output: Any = None,
        size: Tuple[int, int] = (120, 50),
        **more: str,
    ) -> None:
        self._master, slave = pty.openpty()
        columns, lines = size
        packed = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, packed)
        self._process = subprocess.Popen(
            # The terminal must be the controlling one, for Ctrl-C.
            ["setsid", "--ctty", *words],
            stdin=slave,
            stdout=slave if output is None else output,
            stderr=slave,
            env=environment(**{"TERM": "xterm", "LANG": "C.UTF-8", **more}),
        )
        os.close(slave)
        self.raw = b""

    @property
    def text(self) -> str:
        """Return what was shown, without cursor movements and colours."""
        text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self.raw)
        # There may be half a character.
        return text.decode(errors="ignore").replace("\r\n", "\n")

    def read_until(self, text: str) -> None:
        deadline = time.monotonic() + WITHIN
        while text not in self.text:
            if time.monotonic() > deadline or not self._read():
                pytest.fail(f"no {text!r} in:\n{self.text[-2000:]}")

    def _read(self) -> bool:
        """Read what there is; return False at the end."""
        if select.select([self._master], [], [], 1)[0]:
            try:
                part = os.read(self._master, 65536)
            except OSError:
                return False  # the command has ended
            self.raw += part
            return bool(part)
        return True

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self, status: int) -> None:
        """Read to the end, and check the exit status."""
        deadline = time.monotonic() + WITHIN
        while self._read():
            assert time.monotonic() < deadline, self.raw
        self.wait(status)

    def wait(self, status: int) -> None:
        """Wait for the end, and check the exit status."""
        assert self._process.wait(WITHIN) == status, self.raw

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
