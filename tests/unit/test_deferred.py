"""Packages that are loaded when something uses a name in them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

import pytest

from ngcp_task_agent.deferred import defer
from tests.parts import ROOT
from tests.unit.fakes import write


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "outer/part.py", "value = 1\n")
    write(tmp_path / "outer/inner/part.py", "value = 2\n")
    write(tmp_path / "outer/inner/__init__.py", "from . import part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("outer", "outer.inner", "outer.part", "outer.inner.part"):
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)
    return write(
        tmp_path / "outer/__init__.py",
        "from outer.inner.part import value\nloaded = [value]\n",
    )


def test_a_part_is_imported_alone(package: Path) -> None:
    package.write_text("1 / 0\n")
    defer("outer")
    defer("outer.inner")
    import outer.inner.part  # type: ignore[import-not-found]
    import outer.part  # type: ignore[import-not-found]

    assert (outer.part.value, outer.inner.part.value) == (1, 2)


def test_a_part_is_a_name_too(package: Path) -> None:
    package.write_text("1 / 0\n")
    defer("outer")
    from outer import part  # type: ignore[import-not-found]

    assert part.value == 1


def test_what_it_is_in_is_loaded_first(package: Path) -> None:
    package.write_text("first = True\n")
    write(
        package.parent / "inner/__init__.py",
        "import outer\nfirst = vars(outer)['first']\n",
    )
    defer("outer")
    defer("outer.inner")
    import outer.inner  # type: ignore[import-not-found]

    assert outer.inner.first


def test_loads_once_a_name_is_used(package: Path) -> None:
    defer("outer")
    defer("outer.inner")
    import outer.part  # type: ignore[import-not-found]

    before, part = outer, outer.part
    assert "loaded" not in vars(outer)
    from outer import loaded

    assert loaded == [2]
    assert outer is before
    assert outer.part is part
    assert outer.loaded is loaded
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = outer.nothing


def test_threads_wait_while_it_loads(package: Path) -> None:
    package.write_text(
        "from outer.part import go_on, loading\n"
        "loading.set()\n"
        "go_on.wait(30)\n"
        "name = 1\n"
    )
    write(
        package.parent / "part.py",
        "import threading\n"
        "go_on, loading = threading.Event(), threading.Event()\n",
    )
    defer("outer")
    import outer.part  # type: ignore[import-not-found]

    with ThreadPoolExecutor() as threads:
        first = threads.submit(lambda: outer.name)
        assert outer.part.loading.wait(30)
        second = threads.submit(lambda: outer.name)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        outer.part.go_on.set()
        assert (first.result(30), second.result(30)) == (1, 1)


def test_what_fails_to_load_fails_again(package: Path) -> None:
    package.write_text("1 / 0\n")
    defer("outer")
    import outer

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = outer.name


def test_does_nothing_later(package: Path) -> None:
    import outer

    defer("outer")
    assert sys.modules["outer"] is outer
    assert vars(outer)["loaded"] == [2]


def test_no_such_package() -> None:
    defer("no_such_package")
    assert "no_such_package" not in sys.modules


def test_the_agent_loads_only_what_it_needs() -> None:
    script = (
        "import sys\n"
        "import ngcp_task_agent.daemon.cli\n"
        "print(*sys.modules)\n"
        "import redis, redis.asyncio\n"
        "redis.asyncio.Redis, redis.Redis, redis.exceptions.RedisError\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {*done.stdout.split()}
    assert "redis.asyncio.connection" in loaded
    assert not loaded & {"argparse", "jsonschema", "redis.client"}
