"""Which files may decide what root runs, and which may not."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any, List, Tuple

import pytest

from ngcp_task_agent.brokers.base import Program
from ngcp_task_agent.config import permissions, yaml_file
from ngcp_task_agent.config.faults import FAULTY
from ngcp_task_agent.process.users import User
from tests.unit.fakes import needs_root, write

SOMEBODY = 12345


def fault(path: Path) -> str:
    document = permissions.read(path)
    assert document.value is FAULTY
    (found,) = document.faults
    return str(found)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tasks/x.yml", "name: x\n")


def test_reads(file: Path) -> None:
    document = permissions.read(file)
    assert document.faults == []
    assert document.value == {"name": "x"}


def test_missing(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in fault(tmp_path / "x.yml")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.yml").mkdir()
    assert "cannot be read: Is a directory" in fault(tmp_path / "x.yml")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yml")
    assert "must be a file" in fault(tmp_path / "x.yml")


def test_a_device(tmp_path: Path) -> None:
    (tmp_path / "x.yml").symlink_to("/dev/zero")
    assert "must be a file" in fault(tmp_path / "x.yml")


def test_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_bytes(b"name: x\ndescription: \xff\n")
    assert fault(path) == f"{path}:2: is not UTF-8"


def test_too_large(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yml", "#" * ((1 << 20) + 1))
    assert "larger than 1048576 bytes" in fault(path)
    path.write_text("#" * (1 << 20))
    assert permissions.read(path).faults == []


def test_a_link_to_a_valid_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "y.yml").symlink_to(file)
    assert permissions.read(tmp_path / "y.yml").value == {"name": "x"}


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "y.yml").symlink_to("nowhere")
    assert "cannot be read" in fault(tmp_path / "y.yml")


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "y.yml").symlink_to("y.yml")
    assert "cannot be read" in fault(tmp_path / "y.yml")


@needs_root
def test_file_of_another_user(file: Path) -> None:
    os.chown(file, SOMEBODY, 0)
    assert f"belongs to the user {SOMEBODY}" in fault(file)
    assert "what root runs" in fault(file)


@needs_root
def test_names_users_and_groups(file: Path) -> None:
    user, group = pwd.getpwall()[1], grp.getgrall()[1]
    os.chown(file, user.pw_uid, group.gr_gid)
    assert f"the user {user.pw_name} ({user.pw_uid})" in fault(file)
    os.chown(file, 0, group.gr_gid)
    file.chmod(0o664)
    assert f"the group {group.gr_name} ({group.gr_gid})" in fault(file)


@needs_root
def test_writable_by_everyone(file: Path) -> None:
    file.chmod(0o646)
    assert "is writable by everyone" in fault(file)


@needs_root
def test_writable_by_a_group(file: Path) -> None:
    file.chmod(0o664)
    # root's own group can have members, and with an ACL this is its mask.
    assert "is writable by the group root (0)" in fault(file)
    os.chown(file, 0, SOMEBODY)
    assert f"is writable by the group {SOMEBODY}" in fault(file)
    file.chmod(0o644)
    assert permissions.read(file).faults == []


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o707])
def test_folder_writable_by_everyone(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert f"{file.parent}: is writable" in fault(file)


@needs_root
def test_folder_of_another_user(file: Path, tmp_path: Path) -> None:
    os.chown(file.parent, SOMEBODY, 0)
    assert f"{file.parent}: belongs to" in fault(file)
    assert fault(file).endswith("; use a folder where only root can write")


@needs_root
def test_folder_above(file: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert f"{tmp_path}: is writable" in fault(file)


@needs_root
def test_sticky_folder(file: Path) -> None:
    """Like /tmp: users who can write there cannot replace root's files."""
    file.parent.chmod(0o1777)
    assert permissions.read(file).faults == []
    os.chown(file.parent, SOMEBODY, 0)
    assert "belongs to" in fault(file)


@needs_root
def test_link_to_a_file_of_another_user(tmp_path: Path) -> None:
    theirs = write(tmp_path / "theirs/x.yml", "name: x\n")
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "x.yml").symlink_to(theirs)
    assert permissions.read(ours / "x.yml").faults == []
    os.chown(theirs.parent, SOMEBODY, 0)
    assert f"{theirs.parent}: belongs to" in fault(ours / "x.yml")


@needs_root
def test_link_in_a_folder_of_another_user(tmp_path: Path, file: Path) -> None:
    """Its owner chooses which of root's files is read."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "y.yml").symlink_to(file)
    assert permissions.read(folder / "y.yml").faults == []
    os.chown(folder, SOMEBODY, 0)
    assert f"{folder}: belongs to" in fault(folder / "y.yml")


@needs_root
@pytest.mark.parametrize("first", ["theirs/link/file", "link/file", "file"])
def test_a_link_on_the_way(tmp_path: Path, first: str) -> None:
    """Its owner chooses which of root's files is read."""
    write(tmp_path / "ours/file", "name: x\n")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    link = theirs / "link"
    link.symlink_to(tmp_path / "ours")
    (tmp_path / "link").symlink_to("theirs/link")
    (tmp_path / "file").symlink_to("link/file")
    path = tmp_path / first
    assert permissions.read(path).value == {"name": "x"}
    os.lchown(link, SOMEBODY, 0)
    assert f"{link}: is a link owned by the user {SOMEBODY}" in fault(path)
    os.lchown(link, 0, 0)
    os.chown(theirs, SOMEBODY, 0)
    assert f"{theirs}: belongs to" in fault(path)


def test_a_path_through_the_parent(tmp_path: Path) -> None:
    write(tmp_path / "a/file", "name: x\n")
    (tmp_path / "b").symlink_to("a/../a")
    assert permissions.read(tmp_path / "b/../a/file").value == {"name": "x"}


@needs_root
def test_link_owned_by_another_user(tmp_path: Path, file: Path) -> None:
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    link = folder / "y.yml"
    link.symlink_to(file)
    assert permissions.read(link).faults == []
    os.chown(link, SOMEBODY, 0, follow_symlinks=False)
    assert f"is a link owned by the user {SOMEBODY}" in fault(link)


def test_other_users_than_root_read_all_they_can(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    file.chmod(0o666)
    file.parent.chmod(0o777)
    assert permissions.read(file).faults == []


ROOT_USER = User("root", 0, 0, "/root", "/bin/sh")
THEM = User("them", SOMEBODY, SOMEBODY, "/", "/bin/sh")
_ONLY_ROOT = "only root may decide what root runs"


def look_at(run: str, user: User = ROOT_USER) -> Tuple[List[str], List[str]]:
    """Return the faults and the warnings about a program."""
    document = yaml_file.parse_yaml(Path("x.yml"), "run: x")
    permissions.check_program(document, ("run",), Program(run, user))
    found = document.faults, document.warnings
    return [str(fault) for fault in found[0]], [str(w) for w in found[1]]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = write(tmp_path / "it's/bin/program", "#!/bin/sh\n")
    path.chmod(0o755)
    return path


@needs_root
def test_a_program_of_another_user(program: Path) -> None:
    assert look_at(str(program)) == ([], [])
    os.chown(program, SOMEBODY, 0)
    program.chmod(0o775)
    quoted = shlex.quote(str(program))
    assert look_at(str(program)) == (
        [
            f"x.yml:1: run: {program} belongs to the user {SOMEBODY}: "
            f"{_ONLY_ROOT}; fix: chown root {quoted} && chmod go-w {quoted}"
        ],
        [],
    )


@needs_root
@pytest.mark.parametrize("mode", [0o757, 0o777, 0o775])
def test_a_program_writable_by_others(program: Path, mode: int) -> None:
    program.chmod(mode)
    ((fault,), warnings) = look_at(str(program))
    assert " is writable by " in fault
    assert warnings == []


@needs_root
def test_a_program_in_a_folder_of_another_user(program: Path) -> None:
    os.chown(program.parent, SOMEBODY, 0)
    ((fault,), _) = look_at(str(program))
    # No command: it may be the user's home.
    assert fault == (
        f"x.yml:1: run: {program.parent} belongs to the user {SOMEBODY}: "
        f"{_ONLY_ROOT}; use a folder where only root can write"
    )


@needs_root
def test_a_program_in_a_folder_of_a_group(program: Path) -> None:
    """Some administrators want it so, for example for /usr/local."""
    program.parent.chmod(0o775)
    faults, (warning,) = look_at(str(program))
    assert faults == []
    assert warning.startswith(
        f"x.yml:1: run: {program.parent} is writable by the group "
    )
    assert warning.endswith(
        f"fix: chmod go-w {shlex.quote(str(program.parent))}"
    )


@needs_root
def test_a_program_behind_a_link_of_another_user(program: Path) -> None:
    link = program.parent / "link"
    link.symlink_to(program)
    assert look_at(str(link)) == ([], [])
    os.lchown(link, SOMEBODY, 0)
    ((fault,), _) = look_at(str(link))
    quoted = shlex.quote(str(link))
    assert fault.endswith(f"{_ONLY_ROOT}; fix: chown -h root {quoted}")
    # What the command mends is mended.
    subprocess.run(fault.rpartition("fix: ")[2], shell=True, check=True)
    assert look_at(str(link)) == ([], [])


@needs_root
@pytest.mark.parametrize("missing", ["program", "folder/program", "link"])
def test_a_program_that_anyone_may_create(
    tmp_path: Path, missing: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "link").symlink_to("nowhere")
    assert look_at(f"{place}/{missing}") == ([], [])
    place.chmod(0o1777)
    ((fault,), _) = look_at(f"{place}/{missing}")
    assert fault.startswith(
        f"x.yml:1: run: {place}/{missing} does not exist, and others may "
        f"create it in {place}: "
    )
    # In a sticky folder, what root has created is safe.
    write(place / missing, "")
    assert look_at(f"{place}/{missing}") == ([], [])
    place.chmod(0o757)
    ((fault,), _) = look_at(f"{place}/{missing}")
    assert fault.startswith(f"x.yml:1: run: {place} is writable by everyone: ")


@needs_root
def test_a_program_that_is_looked_up(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can write to a folder before it chooses another program."""
    folders = tmp_path / "first", program.parent, tmp_path / "last"
    for folder in (folders[0], folders[2]):
        folder.mkdir()
    monkeypatch.setattr(permissions, "PATH", ":".join(map(str, folders)))
    folders[2].chmod(0o777)
    assert look_at("program") == ([], [])
    folders[0].chmod(0o777)
    ((fault,), _) = look_at("program")
    assert f" run: {folders[0]} is writable by everyone" in fault
    assert len(look_at("missing")[0]) == 2


@needs_root
def test_a_program_that_another_user_runs(program: Path) -> None:
    os.chown(program, SOMEBODY, 0)
    assert look_at(str(program), THEM) == ([], [])
    program.chmod(0o757)
    os.chown(program.parent, SOMEBODY + 1, 0)
    quoted, folder = shlex.quote(str(program)), program.parent
    faults, warnings = look_at(str(program), THEM)
    assert faults == []
    assert warnings == [
        f"x.yml:1: run: {program} is writable by everyone: others decide what "
        f"them runs; fix: chmod go-w {quoted}",
        f"x.yml:1: run: {folder} belongs to the user {SOMEBODY + 1}: others "
        "decide what them runs; use a folder where only root can write",
    ]


def test_only_root_minds(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    program.chmod(0o777)
    assert look_at(str(program)) == ([], [])


OPTIONS = {
    "properties": {
        "password": {"type": "string", "format": "secret"},
        "secret": {"type": "string", "format": "secret-file"},
        "tls": {"properties": {"ca": {"type": "string", "format": "file"}}},
    }
}


def warnings(folder: Path, options: Any) -> List[str]:
    text = json.dumps(options)
    document = yaml_file.parse_yaml(write(folder / "x.yml", text), text)
    permissions.check_files(document, document.value, OPTIONS)
    assert document.faults == []
    return [str(warning) for warning in document.warnings]


@needs_root
def test_a_secret_that_everybody_can_read() -> None:
    # Only root may enter pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="it's ") as name:
        folder = Path(name)
        folder.chmod(0o755)
        secret = write(folder / "secret", "x")
        options = {"password": "x", "secret": str(secret)}
        found = warnings(folder, options)
        assert found == [
            f"{folder}/x.yml:1: {key}: everybody can read this secret in "
            f"{folder}/{file}; fix: chmod o-r '{quoted}/{file}'"
            for key, file in (("password", "x.yml"), ("secret", "secret"))
            for quoted in [name.replace("'", "'\"'\"'")]
        ]
        subprocess.run(found[1].rpartition("fix: ")[2], shell=True, check=True)
        assert len(warnings(folder, options)) == 1
        folder.chmod(0o750)
        assert warnings(folder, options) == []


@needs_root
def test_a_secret_in_a_folder_that_only_root_may_enter(program: Path) -> None:
    program.parent.chmod(0o700)
    found = warnings(program.parent, {"password": "x", "secret": str(program)})
    assert found == []


@needs_root
@pytest.mark.parametrize("ca", ["file", "secret"])
def test_a_file_that_others_may_change(program: Path, ca: str) -> None:
    program.chmod(0o620)
    options = {"tls": {"ca": str(program)}, "secret": "/nowhere"}
    if ca == "secret":
        options = {"secret": str(program)}
    (warning,) = warnings(program.parent, options)
    assert f"{program} is writable by the group root (0): " in warning
    subprocess.run(warning.rpartition("fix: ")[2], shell=True, check=True)
    assert warnings(program.parent, options) == []


def test_no_permission(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        file.chmod(0)
        assert "cannot be read: Permission denied" in fault(file)
