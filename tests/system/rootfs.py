"""Root file systems of a Debian release, built once and never changed.

They are outside of the project and stay between runs.  To write, mount a copy,
which goes away with its folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import List, Sequence

ROOT = Path(__file__).parents[2]
BUILD_WITHIN = 900.0  # seconds for downloading and unpacking a release

# Packages of a machine before ours is installed: systemd, our dependencies, so
# that apt needs no network, and the programs that the tests' tasks run.
_MACHINE = (
    "bash-completion",
    "dbus",
    "iproute2",
    "iputils-ping",
    "man-db",
    "polkitd",
    "procps",
    "python3",
    "python3-argcomplete",
    "python3-dbus-fast",
    "python3-jsonschema",
    "python3-prometheus-client",
    "python3-redis",
    "python3-rich",
    "python3-sdnotify",
    "python3-setproctitle",
    "python3-systemd",
    "python3-yaml",
    "redis-server",
    "redis-tools",
    "systemd",
    "systemd-sysv",
)
_WORKSHOP = ("dpkg-dev", "fakeroot", "lintian", "man-db", "mandoc")


def host_release() -> str:
    """Return the Debian release of this machine, or nothing."""
    text = Path("/etc/os-release").read_text()
    found = re.search("^VERSION_CODENAME=(.*)$", text, re.M)
    return found.group(1) if found else ""


def machine(release: str) -> Path:
    """Return what is booted."""
    return _get(release, _MACHINE)


def emulated(release: str) -> Path:
    """Return what QEMU boots: a machine with its own kernel, and the tests'
    program.
    """
    return _get(
        release, [*_MACHINE, "linux-image-cloud-amd64", "python3-pytest"]
    )


def workshop(release: str) -> Path:
    """Return where packages are built and checked."""
    control = (ROOT / "debian/control").read_text()
    depends = re.search(r"^Build-Depends:\n((?: .*\n)+)", control, re.M)
    assert depends, "debian/control has no Build-Depends"
    names = re.findall(r"^ ([^ ,]+)", depends.group(1), re.M)
    names.remove("debhelper-compat")
    names = [name for name in names if not name.startswith("dh-sequence-")]
    return _get(release, [*names, *_WORKSHOP, "debhelper", "dh-python"])


def _get(release: str, packages: Sequence[str]) -> Path:
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(sorted(packages))}",
        *_apt_options(),
        release,
    ]
    key = hashlib.sha256("\n".join(command).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache")
    cache /= "ngcp-task-agent-tests"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{release}-{key}"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            part = target.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            print(f"building {target}", flush=True)
            subprocess.run(
                [*command, str(part), _mirror()],
                check=True,
                timeout=BUILD_WITHIN,
            )
            part.rename(target)
    return target


def _apt(command: str, *words: str) -> List[str]:
    done = subprocess.run(
        [command, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.splitlines()


def _mirror() -> str:
    """Return where this machine's apt gets its release from."""
    wanted = f"{host_release()} main"
    for line in _apt(
        "apt-get",
        "indextargets",
        "--format=$(REPO_URI) $(CODENAME) $(COMPONENT)",
        "Created-By: Packages",
    ):
        address, _, what = line.partition(" ")
        if what == wanted:
            return address
    raise SystemExit(f"apt has no source of '{wanted}'")


def _apt_options() -> List[str]:
    """Return how this machine's apt connects."""
    return [
        f"--aptopt={line}"
        for line in _apt("apt-config", "dump", "Acquire")
        if re.match("Acquire::(https?|Check-)", line)
    ]


def mount_copy(root: Path, folder: Path) -> Path:
    """Mount a writable copy of a root file system in a folder.

    Another call for the same folder returns the same copy.  The mount goes
    away with the mount namespace of the test run.
    """
    copy = folder / "root"
    if os.path.ismount(copy) or (copy / "etc").exists():
        return copy
    for name in ("root", "upper", "overlay"):
        (folder / name).mkdir(parents=True)
    overlay = subprocess.run(
        [
            *("mount", "-t", "overlay", "overlay", "-o"),
            f"lowerdir={root},upperdir={folder / 'upper'},"
            f"workdir={folder / 'overlay'}",
            str(copy),
        ],
        stderr=subprocess.DEVNULL,
    )
    if overlay.returncode != 0:
        # Not every file system supports this; another overlay, for instance,
        # does not.
        subprocess.run(
            ["cp", "-a", "--reflink=auto", f"{root}/.", str(copy)], check=True
        )
    return copy
