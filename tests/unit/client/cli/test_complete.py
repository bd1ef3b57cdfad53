"""What Tab proposes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, List

import pytest

from ngcp_task_agent.client.cli import arguments, complete, seen


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def known() -> None:
    seen.save(
        {
            "nodes": ["prx01b", "prx01a", "lb01"],
            "options": [
                *("role=proxy", "role=lb", "state=active", "state=inactive"),
                *("status=online", "site=vienna"),
            ],
            "tasks": ["reload"],
            "jobs": ["some-uuid"],
        }
    )


OPTIONS = ["role=", "site=", "state=", "status="]


@pytest.mark.parametrize(
    ("typed", "proposed"),
    [
        ("", ["*", "lb01", "localhost", "prx01a", "prx01b"]),
        ("p", ["*", "lb01", "localhost", "prx01a", "prx01b"]),
        (
            "lb01,p",
            ["lb01,*", "lb01,lb01", "lb01,localhost"]
            + ["lb01,prx01a", "lb01,prx01b"],
        ),
        ("*|", [f"*|{option}" for option in OPTIONS]),
        ("a,b*|ro", [f"a,b*|{option}" for option in OPTIONS]),
        ("*|role=", ["*|role=lb", "*|role=proxy"]),
        ("*|role=lb+", ["*|role=lb+lb", "*|role=lb+proxy"]),
        (
            "*|role=lb;state=",
            ["*|role=lb;state=active", "*|role=lb;state=inactive"],
        ),
        ("*|site=v", ["*|site=vienna"]),
        ("*|nope=", []),
    ],
)
@pytest.mark.usefixtures("known")
def test_destinations(typed: str, proposed: List[str]) -> None:
    assert complete.destinations(typed) == proposed


def test_destinations_of_a_fleet_that_was_never_seen() -> None:
    assert complete.destinations("") == ["*", "localhost"]
    assert complete.destinations("*|state=") == ["*|state=active"]
    assert complete.destinations("*|role=") == []


@pytest.mark.usefixtures("known")
def test_names_that_were_seen() -> None:
    options = argparse.Namespace(
        config_dir=Path("/no/such/folder"), backend=None, channel=None
    )
    assert complete.task_names(options) == ["reload"]
    assert complete.jobs() == ["some-uuid"]


def test_files_are_completed_after_an_at_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.json").touch()
    (tmp_path / "dir").mkdir()
    completed = complete.data_files
    assert completed("x") == []
    assert completed("") == ["@", "-"]
    assert completed(f"@{tmp_path}/d") == [
        f"@{tmp_path}/data.json",
        f"@{tmp_path}/dir/",
    ]
    assert completed("@/no/such/folder/") == []
    assert complete.folders(f"{tmp_path}/d") == [f"{tmp_path}/dir/"]
    monkeypatch.chdir(tmp_path)
    assert completed("@da") == ["@data.json"]


def test_every_option_is_completed() -> None:
    parser = arguments.parser()
    complete.attach(parser)
    numbers = set()
    options = argparse.Namespace(
        config_dir=Path("/no/such/folder"), backend=None, channel=None
    )
    action: Any
    for action in parser._actions:
        if action.nargs == 0 or action.choices:
            continue
        # By default argcomplete proposes files.
        proposed = action.completer(
            prefix="", action=action, parser=parser, parsed_args=options
        )
        if not proposed:
            numbers.add(action.metavar)
    assert numbers <= {"N", "SECONDS", "TASK", "NAME", "UUID"}
