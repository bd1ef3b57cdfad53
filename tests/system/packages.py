"""Builds the packages, and their next version for upgrades."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List

from tests.system.machine import ENVIRONMENT
from tests.system.rootfs import ROOT

BUILD_WITHIN = 600.0  # seconds, unit tests included
NEXT = "9.9.9"
BEFORE_CLIENT = "1.5.0"  # the last version without a package of the client

# "DEB_BUILD_OPTIONS=nocheck make system-test" leaves out the unit tests.
_OPTIONS = {
    name: value
    for name, value in os.environ.items()
    if name == "DEB_BUILD_OPTIONS"
}


# The unit tests of a build look at processes and devices.
_ENTER = """
if [ "$0" != / ]; then
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
fi
exec chroot "$0" sh -euc "$1"
"""


class Workshop:
    """A place with the build dependencies: this machine, or a chroot.

    :param root: ``/``, or the folder of a root file system
    :ivar lint: the output of lintian for the last build
    :ivar manuals: what is wrong with its man pages
    """

    lint = ""
    manuals = ""

    def __init__(self, root: Path) -> None:
        self._root = root
        folder = tempfile.mkdtemp(prefix="ngcp-task-agent-", dir=root / "tmp")
        self._folder = Path(folder)

    def run(self, script: str, check: bool = True) -> str:
        """Run a shell script in the source folder; return its output."""
        inside = Path("/") / self._folder.relative_to(self._root)
        done = subprocess.run(
            [
                *("unshare", "--mount", "sh", "-euc", _ENTER),
                *(str(self._root), f"cd {inside}/source\n{script}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Not with another Python that comes first in the user's path.
            env={**ENVIRONMENT, **_OPTIONS},
            timeout=BUILD_WITHIN,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def build(self, target: Path) -> List[Path]:
        """Build the working tree; return the .deb files."""
        source = self._folder / "source"
        source.mkdir(parents=True)
        try:
            self._copy_tree(source)
            # build-essential brings compilers, which this build does not use.
            self.run("dpkg-checkbuilddeps -I\ndpkg-buildpackage -us -uc -d")
            target.mkdir(exist_ok=True)
            for file in self._folder.iterdir():
                if file.is_file():
                    shutil.copy(file, target)
            self.lint = self.run(
                "lintian --allow-root --tag-display-limit 0 --info "
                "../*.changes",
                check=False,
            )
            self.manuals = self.run(
                "mandoc -T lint -W warning man/*\n"
                "for page in man/*; do\n"
                '    man --warnings --local-file "$page" >/dev/null\n'
                "done 2>&1",
                check=False,
            )
        finally:
            shutil.rmtree(self._folder)
        return sorted(target.glob("*.deb"))

    def _copy_tree(self, source: Path) -> None:
        """Copy the files that a clone of the project would have."""
        # Only names come from Git: the tree may belong to another user.
        git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
        names = subprocess.run(
            [*git, "ls-files", "-co", "--exclude-standard", "-z"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for name in filter(None, names.split("\0")):
            file = ROOT / name
            if file.exists():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, source / name, follow_symlinks=False)


def make_next(packages: List[Path], target: Path) -> List[Path]:
    """Make a newer version of the packages, with another redis.yml."""
    target.mkdir()
    for package in packages:
        tree = target / "tree"
        subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
        control = tree / "DEBIAN/control"
        text = control.read_text()
        found = re.search("^Version: (.*)$", text, re.M)
        assert found
        control.write_text(_with_version(text, NEXT))
        for init in tree.glob("usr/lib/python3/dist-packages/*/__init__.py"):
            init.write_text(init.read_text().replace(found.group(1), NEXT))
        settings = tree / "etc/ngcp-task-agent/backends/redis.yml"
        if settings.exists():
            settings.write_text(f"{settings.read_text()}# As of {NEXT}.\n")
        _pack(tree, target)
    return sorted(target.glob("*.deb"))


def make_before_client(packages: List[Path], target: Path) -> List[Path]:
    """Make packages as they were before the client had its own."""
    target.mkdir()
    agent, client, library = packages
    for sources in ([client, agent], [library]):
        tree = target / "tree"
        for package in sources:
            subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
        subprocess.run(
            ["dpkg-deb", "-e", sources[-1], tree / "DEBIAN"], check=True
        )
        shutil.rmtree(tree / "usr/share/doc/ngcp-task-client", True)
        control = tree / "DEBIAN/control"
        text = _with_version(control.read_text(), BEFORE_CLIENT)
        control.write_text(re.sub(r"ngcp-task-client \(.*?\), ", "", text))
        _pack(tree, target)
    return sorted(target.glob("*.deb"))


def _with_version(control: str, version: str) -> str:
    """Set the version, and that of the other packages that must be equal."""
    text = re.sub("^Version: .*$", f"Version: {version}", control, flags=re.M)
    return re.sub(r"\(= .*?\)", f"(= {version})", text)


def _pack(tree: Path, target: Path) -> None:
    (tree / "DEBIAN/md5sums").unlink()
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, target],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(tree)
