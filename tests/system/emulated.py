"""The limits of commands, in an emulated machine: ``make memory-test``.

Here the kernel may lack controllers of cgroups, and a container cannot add
them.  A machine emulated by QEMU has its own kernel, with all of them.  It
boots slowly, so it runs only the tests that need them, on itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest

from tests.system import rootfs
from tests.system.conftest import copy
from tests.system.machine import ENVIRONMENT

BOOT_AND_TEST_WITHIN = 1200.0  # seconds; an emulated processor is slow
DISK = "3G"  # most of it empty
TESTS = ("tests/system/test_service.py", "tests/system/test_service_units.py")
WHICH = "memory or many_processes"

# Runs the tests at the end of the boot, and switches the machine off.
UNIT = f"""\
[Unit]
After=ngcp-task-agent.service redis-server.service polkit.service
[Service]
Type=oneshot
TimeoutStartSec=infinity
WorkingDirectory=/srv/tree
Environment=PYTHONPATH=/srv/tree PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m pytest -p no:cacheprovider --here -k "{WHICH}" \
    {" ".join(TESTS)}
ExecStopPost=/bin/sh -c "echo; echo exit status $EXIT_STATUS"
ExecStopPost=/usr/bin/systemctl --no-block poweroff
StandardOutput=file:/dev/ttyS0
StandardError=inherit
[Install]
WantedBy=multi-user.target
"""


def test_limits(
    request: pytest.FixtureRequest, work: Path, built: List[Path]
) -> None:
    base: Path = request.config.getoption("--machine-root")
    root = rootfs.mount_copy(base, work / "emulated")
    copy(built, root / "srv/packages")
    shutil.copytree(rootfs.ROOT / "tests", root / "srv/tree/tests")
    shutil.copy(rootfs.ROOT / "pyproject.toml", root / "srv/tree")
    (root / "etc/systemd/system/limits.service").write_text(UNIT)
    (root / "etc/hostname").write_text("emulated\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost emulated\n")
    in_chroot(root, "apt-get install --yes /srv/packages/*.deb")
    in_chroot(root, "systemctl enable limits.service")
    disk = work / "disk"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), DISK],
        check=True,
    )
    console = work / "console"
    boot(root / "boot", disk, console)
    text = console.read_text(errors="replace")
    print(text[text.find("=====") :])
    assert "exit status 0" in text, text
    assert re.search("[1-9] passed", text)
    assert "skipped" not in text


def in_chroot(root: Path, script: str) -> None:
    subprocess.run(
        ["chroot", str(root), "sh", "-euc", script],
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def boot(folder: Path, disk: Path, console: Path) -> None:
    """Run a machine until it is switched off.

    Without KVM, which many virtual machines do not offer, or not in full.

    :param folder: with the kernel
    """
    [kernel] = folder.glob("vmlinuz-*")
    [initrd] = folder.glob("initrd.img-*")
    subprocess.run(
        [
            *("qemu-system-x86_64", "-nodefaults", "-display", "none"),
            *("-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", "2", "-m", "1G", "-no-reboot"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1"),
            "-drive",
            f"file={disk},if=virtio,format=raw,cache=unsafe",
            *("-serial", f"file:{console}"),
        ],
        check=True,
        timeout=BOOT_AND_TEST_WITHIN,
    )
