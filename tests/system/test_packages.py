"""The packages as files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import List

import pytest

from tests.system.packages import Workshop
from tests.system.rootfs import ROOT


def test_all_packages_are_built(built: List[Path]) -> None:
    names = [file.name.partition("_")[0] for file in built]
    assert names == [
        "ngcp-task-agent",
        "ngcp-task-client",
        "python3-ngcp-task-agent",
    ]


def test_lintian_is_silent(workshop: Workshop, built: List[Path]) -> None:
    assert not re.findall("^[EW]: .*$", workshop.lint, re.M), workshop.lint


@pytest.mark.usefixtures("built")
def test_man_pages_render_without_warnings(workshop: Workshop) -> None:
    assert not workshop.manuals


def test_the_version_is_that_of_the_code(built: List[Path]) -> None:
    code = (ROOT / "ngcp_task_agent/__init__.py").read_text()
    version = subprocess.run(
        ["dpkg-deb", "-f", built[0], "Version"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    assert f'__version__ = "{version}"' in code


def test_configuration_files_are_conffiles(built: List[Path]) -> None:
    """Upgrades then keep the administrator's changes."""
    contents = subprocess.run(
        ["dpkg-deb", "-c", built[0]],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    files = re.findall(r"^-.* \.(/etc/.*)$", contents, re.M)
    conffiles = subprocess.run(
        ["dpkg-deb", "-I", built[0], "conffiles"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.split()
    assert files
    assert set(files) == set(conffiles)


def test_needrestart_leaves_the_service_alone(
    built: List[Path], tmp_path: Path
) -> None:
    subprocess.run(["dpkg-deb", "-x", built[0], tmp_path], check=True)
    file = tmp_path / "etc/needrestart/conf.d/ngcp-task-agent.conf"
    # As needrestart reads it: a hash of regular expressions.
    script = (
        "our %nrconf = (override_rc => {}); "
        'eval do { local (@ARGV, $/) = ($ARGV[0]); <> }; die "$@" if "$@"; '
        "my ($unit) = 'ngcp-task-agent.service'; "
        "print map { $nrconf{override_rc}{$_} } "
        "grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}};"
    )
    answer = subprocess.run(
        ["perl", "-e", script, file],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert answer == "0"
