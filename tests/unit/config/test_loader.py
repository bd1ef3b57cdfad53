"""The configuration folder, loaded again and again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import List

import pytest

from ngcp_task_agent.config import plugins
from ngcp_task_agent.config.loader import Config, Loader
from ngcp_task_agent.config.models import AgentConfig
from ngcp_task_agent.config.plugins import Plugins
from tests.parts import ROOT
from tests.unit.fakes import FakeBackend, FakeBroker, needs_root, write

PLUGINS = Plugins({"fake": FakeBackend}, {"fake": FakeBroker})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "installed", lambda: PLUGINS)
    write(tmp_path / "etc/backends/fake.yml", "port: 1\n")
    task(tmp_path / "etc", "ping")
    return tmp_path / "etc"


def task(folder: Path, name: str, more: str = "", file: str = "") -> Path:
    return write(
        folder / f"tasks/{file or name}.yml",
        f"name: {name}\nbackend: fake\nbackend_options: {{queue: q}}\n"
        f"broker: fake\n{more}",
    )


def names(config: Config) -> List[str]:
    return [task.name for task in config.tasks]


def test_reads_all(folder: Path) -> None:
    write(folder / "agent.yml", "max_running: 3\n")
    task(folder, "another")
    config = Loader(folder).load()
    assert config.faults == config.warnings == ()
    assert config.agent == AgentConfig(max_running=3)
    assert config.backends["fake"].options == {"port": 1}
    assert names(config) == ["another", "ping"]


def test_agent_yml_is_optional(folder: Path) -> None:
    assert Loader(folder).load().agent == AgentConfig()


@pytest.mark.parametrize(
    "name", ["x.yaml", "x.yml~", ".x.yml", "x.yml.dpkg-new", "README"]
)
def test_other_files_are_ignored(folder: Path, name: str) -> None:
    write(folder / "tasks" / name, "nonsense: [")
    write(folder / "backends" / name, "nonsense: [")
    config = Loader(folder).load()
    assert config.faults == ()
    assert names(config) == ["ping"]


MISNAMED = [
    pytest.param("tasks/x.yaml", "must end with '.yml'", id="task"),
    pytest.param("backends/x.yaml", "must end with '.yml'", id="backend"),
    pytest.param("tasks/X.YML", "must end with '.yml'", id="upper-case"),
    pytest.param("agents.yml", "did you mean 'agent.yml'?", id="agents"),
    pytest.param("agent.yaml", "did you mean 'agent.yml'?", id="agent"),
    pytest.param(
        "backend.yml", "use the folders backends/ and tasks/", id="no-folder"
    ),
    pytest.param(
        "redis.yaml", "use the folders backends/ and tasks/", id="redis"
    ),
    pytest.param("task/x.yml", "did you mean 'tasks'?", id="folder-of-tasks"),
    pytest.param("Backend/x.yml", "did you mean 'backends'?", id="folder"),
]


@pytest.mark.parametrize(("name", "what"), MISNAMED)
def test_misnamed_files_cause_a_warning(
    folder: Path, name: str, what: str
) -> None:
    write(folder / name, "nonsense: [")
    config = Loader(folder).load()
    assert config.faults == ()
    (warning,) = map(str, config.warnings)
    place = (
        folder / name
        if what.startswith("must")
        else folder / (name.partition("/")[0])
    )
    assert warning.startswith(f"{place}: is not read")
    assert what in warning


@pytest.mark.parametrize(
    "name",
    [
        "agent.yml~",
        "agent.yml.dpkg-old",
        "central.password",
        "tasks.disabled/x.yml",
        "tasks/x.yml.bak",
        "tasks/x.yml.dpkg-dist",
        "tasks/.x.yaml",
        ".git/config.yml",
        ".x.yml",
    ],
)
def test_ignored_files_cause_no_warning(folder: Path, name: str) -> None:
    write(folder / name, "nonsense: [")
    config = Loader(folder).load()
    assert config.faults == config.warnings == ()


def test_no_folder(tmp_path: Path) -> None:
    config = Loader(tmp_path / "nowhere").load()
    assert [str(fault) for fault in config.faults] == [
        f"{tmp_path}/nowhere: there is no such folder"
    ]
    assert config.backends == {}


def test_empty_folder(tmp_path: Path) -> None:
    config = Loader(tmp_path).load()
    assert (config.faults, config.backends, config.tasks) == ((), {}, ())


def test_every_fault_with_file_line_and_key(folder: Path) -> None:
    write(folder / "agent.yml", "a: 1\nmax_running: 0\n")
    write(folder / "backends/other.yml", "type: fake\nport: x\n")
    task(folder, "x", "max_queued: -1\nmax_queued: 2\n")
    task(folder, "y", "max_queued: -1\nunknown: 1\n")
    faults = [str(fault) for fault in Loader(folder).load().faults]
    assert [": ".join(fault.split(": ")[:2]) for fault in faults] == [
        f"{folder}/agent.yml:1: a",
        f"{folder}/agent.yml:2: max_running",
        f"{folder}/backends/other.yml:2: port",
        f"{folder}/tasks/x.yml:6: max_queued",
        f"{folder}/tasks/y.yml:5: max_queued",
        f"{folder}/tasks/y.yml:6: unknown",
    ]


def test_a_faulty_file_is_left_out(folder: Path) -> None:
    task(folder, "x", "unknown: 1\n")
    write(folder / "backends/other.yml", "type: nothing\n")
    config = Loader(folder).load()
    assert names(config) == ["ping"]
    assert list(config.backends) == ["fake"]


def test_the_last_good_version_stays(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "agent.yml", "max_running: 3\n")
    good = loader.load()
    write(folder / "agent.yml", "max_running: x\n")
    write(folder / "backends/fake.yml", "port: x\n")
    task(folder, "ping", "max_running: x\n")
    config = loader.load()
    assert len(config.faults) == 3
    assert config.agent == good.agent
    assert config.backends == good.backends
    assert config.tasks == good.tasks
    # The same at the next load, until the file is corrected.
    assert loader.load().tasks == good.tasks
    task(folder, "ping", "max_running: 2\n")
    config = loader.load()
    assert config.tasks[0].max_running == 2
    assert len(config.faults) == 2


def test_removed_files_are_forgotten(folder: Path) -> None:
    loader = Loader(folder)
    loader.load()
    (folder / "tasks/ping.yml").unlink()
    assert loader.load().tasks == ()
    # Its last good version is forgotten.
    task(folder, "ping", "unknown: 1\n")
    assert loader.load().tasks == ()


def test_removed_backend_removes_its_tasks(folder: Path) -> None:
    loader = Loader(folder)
    loader.load()
    (folder / "backends/fake.yml").unlink()
    config = loader.load()
    assert (config.backends, config.tasks) == ({}, ())
    (fault,) = config.faults
    assert "'fake.yml'" in str(fault)


def test_disabled(folder: Path) -> None:
    task(folder, "unused", "enabled: no\n")
    task(folder, "ping", "enabled: no\n", file="second")
    config = Loader(folder).load()
    assert names(config) == ["ping"]
    assert config.faults == ()


@pytest.mark.parametrize("file", ["a-first", "z-last"])
def test_a_name_is_used_once_in_any_order(folder: Path, file: str) -> None:
    loader = Loader(folder)
    assert names(loader.load()) == ["ping"]
    # A faulty file, and a valid one with the same task name.
    task(folder, "ping", "unknown: 1\n")
    task(folder, "ping", file=file)
    config = loader.load()
    assert names(config) == ["ping"]
    (in_force,) = config.tasks
    faulty = {fault.path for fault in config.faults}
    # A file that is not in force has a fault that says so.
    assert {folder / "tasks/ping.yml", folder / f"tasks/{file}.yml"} <= {
        *faulty,
        in_force.path,
    }


def test_duplicate_tasks(folder: Path) -> None:
    loader = Loader(folder)
    before = loader.load()
    for name in ("a-copy", "ping-copy"):
        task(folder, "ping", file=name)
    for config in (loader.load(), loader.load()):
        assert config.tasks == before.tasks
        assert (config.kept, config.left_out) == (1, 2)
    config = Loader(folder).load()
    assert names(config) == []
    paths = [
        folder / f"tasks/{n}.yml" for n in ("a-copy", "ping-copy", "ping")
    ]
    assert [fault.path for fault in config.faults] == sorted(paths)
    for fault in map(str, config.faults):
        assert ":1: name: " in fault
        assert all(str(path) in fault for path in paths)


def test_one_name_on_two_channels(folder: Path) -> None:
    path = task(folder, "ping", file="zwei")
    path.write_text(path.read_text().replace("queue: q", "queue: other"))
    config = Loader(folder).load()
    assert config.faults == ()
    assert [task.channel for task in config.tasks] == ["q", "other"]


def test_warnings_disable_nothing(folder: Path) -> None:
    task(folder, "x", "broker_options: {problem: no such program}\n")
    config = Loader(folder).load()
    assert (names(config), config.warnings) == (["ping", "x"], ())
    config = Loader(folder, checking=True).load()
    assert names(config) == ["ping", "x"]
    (warning,) = config.warnings
    assert str(warning) == (
        f"{folder}/tasks/x.yml:5: broker_options.problem: no such program"
    )


@needs_root
def test_file_of_another_user(folder: Path) -> None:
    loader = Loader(folder)
    good = loader.load()
    os.chown(folder / "tasks/ping.yml", 12345, 0)
    config = loader.load()
    assert "belongs to" in str(config.faults[0])
    assert config.tasks == good.tasks
    assert Loader(folder).load().tasks == ()


@needs_root
def test_folder_writable_by_everyone(folder: Path) -> None:
    task(folder, "another")
    loader = Loader(folder)
    before = loader.load()
    (folder / "tasks").chmod(0o777)
    config = loader.load()
    assert config.tasks == before.tasks
    assert (config.kept, config.left_out) == (2, 0)
    config = Loader(folder).load()
    assert (config.tasks, config.left_out) == ((), 2)
    assert [str(fault) for fault in config.faults] == [
        f"{folder}/tasks: is writable by everyone: only root may decide what "
        f"root runs; fix: chmod go-w {folder}/tasks"
    ]
    folder.chmod(0o777)
    assert len(Loader(folder).load().faults) == 2


def test_the_folder_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "x.yml", "name: x\n")
    (fault,) = Loader(tmp_path / "x.yml").load().faults
    assert str(fault) == (
        f"{tmp_path}/x.yml: is not a folder; to check one file: --check FILE"
    )


def test_a_folder_that_nobody_may_enter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files cannot be read: one fault, also if root runs this test."""
    task(folder, "another")
    opened = os.open

    def fails(path: str, flags: int, *more: int) -> int:
        if "tasks" in str(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", fails)
    monkeypatch.setattr(
        os, "access", lambda path, mode: "tasks" not in str(path)
    )
    config = Loader(folder).load()
    assert [str(fault) for fault in config.faults] == [
        f"{folder}/tasks: cannot be read: Permission denied"
    ]
    assert config.left_out == 2


def test_tasks_is_a_file(folder: Path) -> None:
    (folder / "tasks/ping.yml").unlink()
    (folder / "tasks").rmdir()
    write(folder / "tasks", "")
    config = Loader(folder).load()
    assert str(config.faults[0]).startswith(f"{folder}/tasks: ")


def test_folder_that_cannot_be_read_keeps_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(folder)
    good = loader.load()
    listdir = os.listdir

    def fails(path: Path) -> List[str]:
        if Path(path).name == "tasks":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", fails)
    config = loader.load()
    assert "cannot be read" in str(config.faults[0])
    assert config.tasks == good.tasks


def test_equal_files_make_equal_configurations(folder: Path) -> None:
    """So a reload replaces nothing that has not changed."""
    one, other = Loader(folder).load(), Loader(folder).load()
    assert one.tasks == other.tasks
    assert one.backends == other.backends


SHIPPED = ROOT / "etc/ngcp-task-agent"


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="not in a source tree")
def test_the_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in SHIPPED.rglob("*.yml"):
        write(tmp_path / path.relative_to(SHIPPED), path.read_text())
    config = Loader(tmp_path).load()
    assert config.faults == ()
    # No warning, although the task's program is missing on plain Debian.
    assert config.warnings == ()
    assert "db" not in config.backends["redis"].options
    assert names(config) == ["clear_call_counters"]
    (warning,) = Loader(tmp_path, checking=True).load().warnings
    assert "there is no program 'ngcp-clear-call-counters'" in str(warning)


def check(folder: Path, file: Path) -> List[str]:
    document = Loader(folder, checking=True).check(file)
    return [str(found) for found in (*document.faults, *document.warnings)]


def test_checks_a_new_task(folder: Path, tmp_path: Path) -> None:
    task(folder, "faulty", "unknown: 1\n")  # does not concern it
    new = task(tmp_path / "home", "new").rename(tmp_path / "new.yml")
    assert check(folder, new) == []
    new.write_text(new.read_text().replace("fake", "nowhere"))
    assert len(check(folder, new)) == 2
    new.write_text(new.read_text().replace("nowhere", "fake") + "foo: 1\n")
    (fault,) = check(folder, new)
    assert fault.startswith(f"{new}:5: foo: unknown key")


def test_checks_whether_files_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    new = write(
        tmp_path / "backends/redis.yml",
        f"password_file: {missing}\ntls:\n  ca: {missing}\n",
    )
    assert Loader(tmp_path).load().warnings == ()
    what = f"{missing} cannot be read: No such file or directory"
    assert check(tmp_path, new) == [
        f"{new}:1: password_file: {what}",
        f"{new}:3: tls.ca: {what}",
    ]


def test_says_why_the_backend_of_a_task_cannot_be_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = task(tmp_path, "new")
    write(folder / "backends/fake.yml", "port: x\n")
    faults = check(folder, new)
    assert [fault.partition(": must")[0] for fault in faults] == [
        f"{new}:2: backend: 'fake' cannot be used: it has faults",
        f"{folder}/backends/fake.yml:1: port",
    ]
    listed = os.listdir

    def refuse(path: Path) -> List[str]:
        if path == folder / "backends":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    denied = f"{folder}/backends: cannot be read: Permission denied"
    assert denied in check(folder, new)


def test_checks_a_backend_in_another_folder(
    folder: Path, tmp_path: Path
) -> None:
    new = write(tmp_path / "fake.yml", "host: a\nport: 1\n")
    assert check(folder, new) == [
        f"{new}: is checked as a task; to check a backend, put it in a folder "
        "'backends'"
    ]
    # Nothing says that these are no tasks.
    for text in ("", "name: x\n"):
        new.write_text(text)
        assert "checked as" not in check(folder, new)[0]


def test_checks_a_new_task_of_a_known_name(
    folder: Path, tmp_path: Path
) -> None:
    new = task(tmp_path, "ping", file="new")
    (fault,) = check(folder, new)
    other = folder / "tasks/ping.yml"
    assert fault.endswith(
        f"{other} has a task of this name on this channel: rename one"
    )
    task(folder, "ping", file="twin")
    assert f"ping.yml, {folder}/tasks/twin.yml have a" in check(folder, new)[0]
    (folder / "tasks/twin.yml").unlink()
    # It would replace the file of its own name.
    assert check(folder, task(tmp_path, "ping")) == []
    assert check(folder, folder / "tasks/ping.yml") == []


def test_checks_a_new_backend(folder: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "backends/fake.yml", "port: x\n")
    (fault,) = check(folder, new)
    assert fault.startswith(f"{new}:1: port: ")
    new = write(tmp_path / "backends/other.yml", "type: fake\n")
    assert check(folder, new) == []


def test_checks_a_new_agent_yml(folder: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "agent.yml", "max_running: x\n")
    (fault,) = check(folder, new)
    assert fault.startswith(f"{new}:1: max_running: ")


@needs_root
def test_checks_a_new_file_of_anyone(folder: Path, tmp_path: Path) -> None:
    """Whoever drops it in makes a copy."""
    new = task(tmp_path, "new")
    os.chown(new, 12345, 12345)
    assert check(folder, new) == []
    os.chown(folder / "tasks/ping.yml", 12345, 12345)
    (fault,) = check(folder, folder / "tasks/ping.yml")
    assert "belongs to the user 12345" in fault


def test_checks_a_new_file_that_would_not_be_read(
    folder: Path, tmp_path: Path
) -> None:
    new = task(tmp_path, "new").rename(tmp_path / "new.txt")
    assert check(folder, new) == [
        f"{new}: is not read under this name: call it NAME.yml"
    ]
    assert "No such file" in check(folder, tmp_path / "nowhere.yml")[0]


def test_an_unchanged_file_keeps_its_name(folder: Path) -> None:
    task(folder, "one", file="a")
    task(folder, "two", file="b")
    loader = Loader(folder)
    loader.load()
    task(folder, "two", file="a")
    config = loader.load()
    assert {(t.path.stem, t.name) for t in config.tasks} == {
        ("a", "one"),
        ("b", "two"),
        ("ping", "ping"),
    }
    assert [fault.path.stem for fault in config.faults] == ["a", "b"]
    assert (config.kept, config.left_out) == (2, 0)


def test_two_files_swap_their_names(folder: Path) -> None:
    task(folder, "one", file="a")
    task(folder, "two", file="b")
    loader = Loader(folder)
    loader.load()
    task(folder, "two", file="a")
    task(folder, "one", file="b")
    config = loader.load()
    assert config.faults == ()
    assert names(config) == ["two", "one", "ping"]


def test_a_name_that_a_faulty_file_still_has(folder: Path) -> None:
    """What runs stays as it was, also if its file now says another name."""
    loader = Loader(folder)
    before = loader.load()
    task(folder, "other", "unknown: 1\n", file="ping")
    task(folder, "ping", file="copy")
    config = loader.load()
    assert config.tasks == before.tasks
    assert [fault.path.stem for fault in config.faults] == ["copy", "ping"]
    assert f"{folder}/tasks/ping.yml" in str(config.faults[0])
    task(folder, "other", file="ping")
    assert names(loader.load()) == ["ping", "other"]


def test_a_clash_that_follows_from_another(folder: Path) -> None:
    """a and b both want 'x', so a keeps 'y', which c wants."""
    loader = Loader(folder)
    task(folder, "y", file="a")
    before = loader.load()
    task(folder, "x", file="a")
    task(folder, "x", file="b")
    task(folder, "y", file="c")
    config = loader.load()
    assert config.tasks == before.tasks
    assert {f.path.stem: f.what.split()[0] for f in config.faults} == {
        "a": f"{folder}/tasks/b.yml",
        "b": f"{folder}/tasks/a.yml",
        "c": f"{folder}/tasks/a.yml",
    }


def test_every_fault_beside_unreadable_values(folder: Path) -> None:
    write(
        folder / "agent.yml",
        "max_running: 2026-13-45\nx: !!bool maybe\nmax_request: 5\n"
        "max_request: 6\nstop_timeout: x\n",
    )
    write(folder / "backends/other.yml", "type: fake\nport: .inf\nfoo: 1\n")
    more = "description: 2026-13-45\nmax_queued: -1\nallow_src: !!set {a: }\n"
    task(folder, "x", f"{more}data_schema: {{enum: [.inf], type: a}}\n")
    faults = Loader(folder).load().faults
    assert [
        (fault.path.name, fault.line, fault.where, fault.what[:9])
        for fault in faults
    ] == [
        ("agent.yml", 1, "max_running", "is not a "),
        ("agent.yml", 2, "x", "is not ye"),
        ("agent.yml", 2, "x", "unknown k"),
        ("agent.yml", 4, "max_request", "duplicate"),
        ("agent.yml", 5, "stop_timeout", "must be a"),
        ("other.yml", 2, "port", "must be a"),
        ("other.yml", 3, "foo", "unknown k"),
        ("x.yml", 5, "description", "is not a "),
        ("x.yml", 6, "max_queued", "must be a"),
        ("x.yml", 7, "allow_src", "a tag can"),
        ("x.yml", 8, "data_schema.enum[0]", "must be a"),
        ("x.yml", 8, "data_schema.type", "unknown t"),
    ]


ODD = [
    pytest.param("data_schema: {$id: 'http://[::1'}", "$id", id="bad-id"),
    pytest.param("max_queued: 0x" + "f" * 8000, "max_queued", id="huge"),
    pytest.param("max_queued: " + "9" * 9000, "max_queued", id="decimal"),
]


@pytest.mark.parametrize(("line", "where"), ODD)
def test_odd_values_are_faults_of_their_file(
    line: str, where: str, folder: Path
) -> None:
    task(folder, "odd", line + "\n")
    config = Loader(folder).load()
    assert names(config) == ["ping"]
    (fault, *_) = config.faults
    assert fault.path.stem == "odd"
    assert where in str(fault)


def test_any_exception_becomes_a_fault_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(task_options: object) -> str:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(FakeBackend, "channel", fails)
    config = Loader(folder).load()
    assert not config.tasks
    assert "ZeroDivisionError" in str(config.faults[0])


def test_check_of_a_file_that_cannot_be_looked_at(tmp_path: Path) -> None:
    file = tmp_path / f"{'x' * 300}.yml"
    document = Loader(tmp_path, checking=True).check(file)
    (fault,) = document.faults
    assert "File name too long" in fault.what
