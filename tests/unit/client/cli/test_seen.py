"""What the last listings have shown, kept for completion."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ngcp_task_agent.client.cli import seen

NOTHING: Dict[str, List[str]] = {kind: [] for kind in seen.KINDS}
JOB = "cb88ac76-f348-4614-866f-43877b893e7e"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_what_is_saved_is_loaded(cache: Path) -> None:
    assert seen.load() == NOTHING
    words = {"nodes": ["prx01a"], "options": ["role=lb", "site=vienna"]}
    seen.save(words)
    seen.save({"tasks": ["reload"], "jobs": [JOB]})
    assert seen.load() == {**words, "tasks": ["reload"], "jobs": [JOB]}
    seen.save({"nodes": ["prx01b"]})
    assert seen.load()["nodes"] == ["prx01b"]
    # Nobody else can read it, and nothing else is left.
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_folder_of_a_user_without_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        seen.save({"nodes": ["n1"]})
        assert (tmp_path / ".cache" / seen.FILE).exists()
        assert seen.load()["nodes"] == ["n1"]


def test_names_of_strangers_are_checked() -> None:
    bad = ["", "-x", "a b", "a;reboot", "$(id)", "é", "a\nb", "a" * 256, "*"]
    seen.save(
        {
            "nodes": [*bad, "n1"],
            "options": [*bad, "role", "role=", "=x", "role=$(id)", "a=b"],
        }
    )
    assert seen.load() == {**NOTHING, "nodes": ["n1"], "options": ["a=b"]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b"[" * 100_000,
        b'{"nodes": 7, "tasks": [1, null, "t"], "more": ["x"]}',
        b'{"nodes": ["$(id)"], "tasks": ["t"]}',
    ],
)
def test_damaged_file_is_harmless(content: bytes, cache: Path) -> None:
    cache.mkdir()
    file = cache / seen.FILE
    file.write_bytes(content)
    tasks = ["t"] if b'"t"' in content else []
    assert seen.load() == {**NOTHING, "tasks": tasks}
    seen.save({"nodes": ["n1"]})
    assert seen.load() == {**NOTHING, "nodes": ["n1"], "tasks": tasks}


def test_what_is_no_file_is_harmless(cache: Path) -> None:
    cache.mkdir()
    (cache / seen.FILE).mkdir()
    seen.save({"nodes": ["n1"]})
    assert seen.load() == NOTHING
    (cache / seen.FILE).rmdir()
    os.mkfifo(cache / seen.FILE)
    assert seen.load() == NOTHING
    seen.save({"nodes": ["n1"]})
    assert seen.load()["nodes"] == ["n1"]


def test_link_is_replaced_and_not_followed(
    cache: Path, tmp_path: Path
) -> None:
    cache.mkdir()
    other = tmp_path / "other"
    other.write_text(json.dumps({"nodes": ["secret"]}))
    (cache / seen.FILE).symlink_to(other)
    assert seen.load() == NOTHING
    seen.save({"nodes": ["n1"]})
    assert seen.load()["nodes"] == ["n1"]
    assert json.loads(other.read_text()) == {"nodes": ["secret"]}


def test_size_is_bounded() -> None:
    seen.save({"nodes": [f"n{number}" for number in range(100_000)]})
    assert 1000 <= len(seen.load()["nodes"]) <= 10_000


def test_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "no/such/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(path))
        seen.save({"nodes": ["n1"]})
        assert seen.load() == NOTHING


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_folder_of_another_user_is_left_alone(cache: Path) -> None:
    cache.mkdir()
    os.chown(cache, 65534, 65534)
    seen.save({"nodes": ["n1"]})
    assert list(cache.iterdir()) == []


def test_failed_save_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError

    seen.save({"nodes": ["n1"]})
    monkeypatch.setattr(os, "replace", fail)
    seen.save({"nodes": ["n2"]})
    assert seen.load()["nodes"] == ["n1"]
    assert [file.name for file in cache.iterdir()] == [seen.FILE]
