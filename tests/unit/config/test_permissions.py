"""Which files may decide what root runs, and which may not."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from ngcp_task_agent.config import permissions
from ngcp_task_agent.config.faults import FAULTY
from tests.unit.fakes import needs_root, write

SOMEBODY = 12345


def fault(path: Path) -> str:
    document = permissions.read(path)
    assert document.value is FAULTY
    (found,) = document.faults
    assert found.path == path
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
    assert fault(tmp_path / "x.yml")


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
    assert f"its folder {file.parent} is writable" in fault(file)


@needs_root
def test_folder_of_another_user(file: Path, tmp_path: Path) -> None:
    os.chown(file.parent, SOMEBODY, 0)
    assert f"its folder {file.parent} belongs to" in fault(file)


@needs_root
def test_folder_above(file: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert f"its folder {tmp_path} is writable" in fault(file)


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
    assert f"its folder {theirs.parent}" in fault(ours / "x.yml")


@needs_root
def test_link_in_a_folder_of_another_user(tmp_path: Path, file: Path) -> None:
    """Its owner chooses which of root's files is read."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "y.yml").symlink_to(file)
    assert permissions.read(folder / "y.yml").faults == []
    os.chown(folder, SOMEBODY, 0)
    assert f"its folder {folder} belongs to" in fault(folder / "y.yml")


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
    assert f"{link} is a link owned by the user {SOMEBODY}" in fault(path)
    os.lchown(link, 0, 0)
    os.chown(theirs, SOMEBODY, 0)
    assert f"its folder {theirs} belongs to" in fault(path)


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


def test_no_permission(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        file.chmod(0)
        assert "cannot be read: Permission denied" in fault(file)
