"""Runs the system tests: ``python3 -m tests.system RELEASE [OPTION...]``.

With ``--emulate`` before these, only those of emulated.py.

The options are those of pytest; without any, all tests run.  Root file systems
are built first, with network access.  The rest runs in separate mount, network
and process namespaces, so that no process or mount outlives the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system import rootfs

WITHIN = 1800.0  # seconds for everything but building root file systems

_INSIDE = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
while umount -R /sys/fs/cgroup 2>/dev/null; do :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "$0"
exec "$@"
"""

_REMOVE_CGROUP = """
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# What was killed may still be about to go.
for _ in $(seq 100); do
    ! find "$0" -depth -type d -exec rmdir {} + 2>/dev/null || exit 0
    sleep 0.1
done
echo "$0 cannot be removed" >&2
exit 1
"""


def main() -> int:
    if os.geteuid() != 0:
        sys.exit("the system tests boot machines: run them as root")
    make = rootfs.machine
    default = "tests/system"
    if sys.argv[1:2] == ["--emulate"]:
        del sys.argv[1]
        make, default = rootfs.emulated, "tests/system/emulated.py"
    if len(sys.argv) < 2:
        sys.exit("which release? bookworm or trixie")
    release, *options = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    machine = make(release)
    workshop = Path("/")
    if release != rootfs.host_release():
        workshop = rootfs.workshop(release)
    # A path without ":" and ",", which are special in mount options.
    work = Path(tempfile.mkdtemp(prefix="ngcp-task-agent-", dir="/var/tmp"))
    cgroup = f"/sys/fs/cgroup/{work.name}"
    try:
        done = subprocess.run(
            [
                # If this process is killed, so are all that it started.
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--mount", "--net", "--pid", "--fork"),
                *("--kill-child", "sh", "-c", _INSIDE, cgroup),
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
                f"--machine-root={machine}",
                f"--workshop={workshop}",
                f"--work={work}",
                f"--cgroup={cgroup}",
                *(options or [default]),
            ],
            cwd=rootfs.ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=WITHIN,
        )
        return done.returncode
    except subprocess.TimeoutExpired:
        print(f"not within {WITHIN:.0f} s", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work)
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", _REMOVE_CGROUP, cgroup],
            check=True,
        )


if __name__ == "__main__":
    sys.exit(main())
