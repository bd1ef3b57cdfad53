"""Variables for a unit, as a file in memory that only root can read.

Everybody can read what a unit has as its ``Environment``.
"""

from __future__ import annotations

import fcntl
import os
import re
from typing import Mapping

from ngcp_task_agent.errors import CannotStart

# Half a surrogate pair, and what Unicode calls noncharacters: systemd takes
# text with any of them for no UTF-8.
_UNFIT = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(n << 16 | 0xFFFE) + chr(n << 16 | 0xFFFF) for n in range(17))
    + "]"
)
_SPECIAL = re.compile(r'["\\$`]')


def check_fit(text: str, what: str) -> None:
    """Check that systemd accepts a text.

    :raises CannotStart: when it does not
    """
    found = _UNFIT.search(text)
    if found:
        raise CannotStart(
            f"{what} contains U+{ord(found.group()):04X}, which systemd does "
            "not accept"
        )


def environment_file(environment: Mapping[str, str]) -> int:
    """Return a descriptor of the file.

    :raises CannotStart: for a value that systemd does not accept
    :raises OSError: when there can be no more files
    """
    lines = []
    for name, value in environment.items():
        check_fit(value, f"the variable {name}")
        lines.append(f'{name}="{_SPECIAL.sub(_escape, value)}"\n')
    return memory_file("environment", "".join(lines).encode())


def _escape(found: re.Match[str]) -> str:
    return f"\\{found.group()}"


def memory_file(name: str, content: bytes) -> int:
    """Return a descriptor of a read-only file in memory."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


_SEALS = (
    fcntl.F_SEAL_SEAL
    | fcntl.F_SEAL_SHRINK
    | fcntl.F_SEAL_GROW
    | fcntl.F_SEAL_WRITE
)
