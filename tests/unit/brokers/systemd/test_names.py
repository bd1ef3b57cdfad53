"""The names of the agent's units and slices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.brokers.systemd.names import (
    full_name,
    object_path,
    run_name,
    run_prefix,
    slice_name,
)

# As systemd checks it.
VALID = re.compile(r"[A-Za-z0-9:_.\\-]{1,247}\.(service|slice)")


@pytest.mark.parametrize(
    ("task", "prefix"),
    [
        ("ping_10", "ngcp-task-ping_10"),
        ("a-b", "ngcp-task-a\\x2db"),
        ("a/b c", "ngcp-task-a\\x2fb\\x20c"),
        ("\u20ac", "ngcp-task-\\xe2\\x82\\xac"),
    ],
)
def test_prefix(task: str, prefix: str) -> None:
    assert run_prefix(task) == prefix
    assert re.fullmatch(
        re.escape(prefix) + "-[0-9a-f]{16}.service", run_name(task)
    )


@given(
    st.text(
        min_size=1,
        max_size=128,
        alphabet=st.characters(blacklist_categories=["Cs"]),
    )
)
def test_any_task_has_a_valid_name(task: str) -> None:
    name = run_name(task)
    assert VALID.fullmatch(name)
    assert len(f"{run_prefix(task)}-.service.d") <= 255
    # No drop-in of another task can apply to it.
    assert run_prefix(task).count("-") == 2


def test_long_names_stay_different() -> None:
    long = "\u20ac" * 100
    assert run_prefix(f"{long}a") != run_prefix(f"{long}b")
    assert run_prefix(long) == run_prefix(long)


def test_each_run_has_a_name_of_its_own() -> None:
    assert run_name("x") != run_name("x")


def test_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NGCP_TASK_AGENT_SLICE", raising=False)
    names = {slice_name(tmp_path / name) for name in ("a", "b", "\u00e4" * 60)}
    assert len(names) == 3
    for name in names:
        assert VALID.fullmatch(name)
        assert name.count("-") == 1
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert slice_name(tmp_path / "link") == slice_name(tmp_path / "a")
    monkeypatch.setenv("NGCP_TASK_AGENT_SLICE", "mine.slice")
    assert slice_name(tmp_path) == "mine.slice"


def test_object_path() -> None:
    assert object_path("1-a_b.service") == (
        "/org/freedesktop/systemd1/unit/_31_2da_5fb_2eservice"
    )


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("x", "x.service"),
        ("x.y", "x.y.service"),
        ("x.timer", "x.timer"),
        (".timer", ".timer.service"),
    ],
)
def test_full_name(name: str, full: str) -> None:
    assert full_name(name) == full
