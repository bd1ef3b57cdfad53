"""The Redis and Valkey servers of another Debian release, not installed.

``python3 -m tests.servers RELEASE`` unpacks them once, in ``build``, and
prints the folder with the programs ``redis-server`` and ``valkey-server``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.system import rootfs

_PROGRAMS = ("redis-server", "valkey-server")  # also the packages' names
_WITHIN = 300.0  # seconds for downloading and unpacking


def unpack(release: str) -> Path:
    """Unpack the servers, and all libraries that they need.

    :raises OSError: when the user is not root, or there is no mmdebstrap
    :raises subprocess.SubprocessError: when mmdebstrap failed
    """
    target = rootfs.ROOT / "build" / f"servers-{release}"
    if not target.exists():
        if os.geteuid() != 0:
            raise PermissionError("only root can unpack them")
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(exist_ok=True)
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=extract"),
                f"--include={','.join(_PROGRAMS)}",
                *rootfs._apt_options(),
                *(release, str(part), rootfs._mirror()),
            ],
            check=True,
            timeout=_WITHIN,
            stdout=sys.stderr,
        )
        part.rename(target)
    programs = target / "programs"
    programs.mkdir(exist_ok=True)
    (loader,) = target.glob("usr/lib/*/ld-linux*.so.*")
    for name in _PROGRAMS:
        # This machine's dynamic linker may not accept these libraries.
        command = [
            *(str(loader), "--library-path", str(loader.parent)),
            str(target / "usr/bin" / name),
        ]
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o755)
    return programs


if __name__ == "__main__":
    try:
        print(unpack(sys.argv[1]))
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"no servers of {sys.argv[1]}: {error}")
