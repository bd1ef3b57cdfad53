"""Where to send: what the configuration says, and what arguments say."""

from __future__ import annotations

import functools
import os
import re
import socket
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml

from ngcp_task_agent import backends
from ngcp_task_agent.client import NoAddress, discovery, find
from tests.unit.fakes import FakeBackend


class Folder:
    """A configuration folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("backends", "tasks"):
            (path / name).mkdir(parents=True)

    def write(self, name: str, value: Any) -> None:
        (self.path / name).write_text(yaml.safe_dump(value))

    def task(
        self,
        name: str,
        backend: str = "redis",
        channel: str = "control",
        **options: Any,
    ) -> None:
        self.write(
            f"tasks/{name}-{backend}-{channel}.yml",
            {
                "name": name,
                "backend": backend,
                "backend_options": {"control_channel": channel},
                "broker": "command",
                "broker_options": {"run": "true", **options},
            },
        )

    def find(self, *arguments: Any, **more: Any) -> discovery.Address:
        return find(*arguments, config_dir=self.path, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "config")


def test_no_configuration(tmp_path: Path) -> None:
    address = find("t", config_dir=tmp_path / "none")
    assert address.server == {}
    assert address.channel == "ngcp-task-agent-redis"
    assert address.src == discovery.own_name()
    assert address.assumed
    assert "no such folder" in address.notes[0]
    assert "127.0.0.1:6379" in address.notes[-1]


def test_name_is_the_short_host_name() -> None:
    if not any(
        os.path.exists(f"/etc/ngcp_{kind}name") for kind in ("host", "node")
    ):
        assert discovery.own_name() == socket.gethostname().partition(".")[0]


def test_configuration_has_everything(folder: Folder) -> None:
    folder.write("agent.yml", {"node": {"name": "prx01a"}})
    folder.write("backends/redis.yml", {"port": 7, "password": "secret"})
    folder.task("t")
    address = folder.find("t")
    assert address.server == {"port": 7, "password": "secret"}
    assert (address.channel, address.src) == ("control", "prx01a")
    assert not address.assumed
    assert str(folder.path / "backends/redis.yml") in address.notes[-1]
    assert "secret" not in f"{address} {address!r} {address.notes}"


def test_how_long_a_task_may_run(folder: Folder) -> None:
    folder.write("backends/redis.yml", {})
    folder.task("default")
    folder.task("long", timeout=400)
    folder.task("both", channel="one", timeout=7)
    folder.task("both", channel="two", timeout=0)
    address = folder.find("default")
    tasks = ("default", "long", "both", "unknown")
    assert [*map(address.task_timeout, tasks)] == [None, 400, 0, None]
    both = folder.find("both", channel="one")
    assert both.task_timeout("both") == 7


def test_task_of_other_nodes_goes_where_all_tasks_listen(
    folder: Folder,
) -> None:
    folder.write("backends/redis.yml", {})
    folder.task("one")
    folder.task("two")
    address = folder.find("three")
    assert address.channel == "control"
    assert "no usable task 'three'" in address.notes[0]
    folder.task("four", channel="other")
    assert folder.find("three").channel == "ngcp-task-agent-redis"
    assert folder.find("four").channel == "other"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"enabled": False},
            r"t-redis-control\.yml:\d+: enabled: is set to no$",
        ),
        ({"max_running": 0}, r"t-redis-control\.yml:\d+: max_running: must"),
        ({"backend": "nope"}, r"yml:\d+: backend: there is no file 'nope"),
    ],
)
def test_task_whose_own_file_is_not_in_force(
    change: Dict[str, Any], told: str, folder: Folder
) -> None:
    folder.write("backends/redis.yml", {})
    folder.task("t")
    assert folder.find("t").warning == ""
    file = "tasks/t-redis-control.yml"
    sound = yaml.safe_load((folder.path / file).read_text())
    folder.write(file, {**sound, **change})
    address = folder.find("t")
    assert address.channel == "ngcp-task-agent-redis"
    assert re.search(told, address.warning)
    assert address.warning in address.notes
    # It does not affect other tasks, nor this one if everything is given.
    assert folder.find("other").warning == ""
    assert folder.find("t", url="redis://h", channel="c").warning == ""


def test_task_whose_own_file_is_not_yaml(folder: Folder) -> None:
    folder.write("backends/redis.yml", {})
    (folder.path / "tasks/t.yml").write_text("name: t\n\t- [")
    assert "tasks/t.yml:2" in folder.find("t").warning
    assert folder.find("other").warning == ""


def test_task_with_a_faulty_backend(folder: Folder) -> None:
    folder.write("backends/redis.yml", {"port": 70000})
    folder.write("backends/other.yml", {"type": "redis"})
    folder.task("t")
    # Another server has other agents.
    with pytest.raises(NoAddress, match="backend of task 't'.*port"):
        folder.find("t")
    assert folder.find("t", backend="other").server == {}
    assert folder.find("t", url="redis://h").server["host"] == "h"


def test_task_selects_the_backend(folder: Folder) -> None:
    folder.write("backends/redis.yml", {"port": 1})
    folder.write("backends/far.yml", {"type": "redis", "port": 2})
    folder.task("near")
    folder.task("away", "far", "far-control")
    assert folder.find("near").server["port"] == 1
    address = folder.find("away")
    assert (address.server["port"], address.channel) == (2, "far-control")
    # No node is known to have it: use the backend with the default name.
    assert folder.find("unknown").server["port"] == 1
    address = folder.find("unknown", backend="far")
    assert (address.server["port"], address.channel) == (2, "far-control")


def test_several_backends_fit(folder: Folder) -> None:
    folder.write("backends/a.yml", {"type": "redis", "port": 1})
    folder.write("backends/b.yml", {"type": "redis", "port": 2})
    with pytest.raises(NoAddress, match=r"several backends fit \(a, b\)"):
        folder.find("t")
    folder.task("t", "a")
    folder.task("t", "b")
    with pytest.raises(NoAddress, match=r"several backends fit \(a, b\)"):
        folder.find("t")
    assert folder.find("t", backend="b").server["port"] == 2
    folder.task("t", "a", "second")
    with pytest.raises(NoAddress, match=r"channels \(control, second\)"):
        folder.find("t", backend="a")
    address = folder.find("t", channel="second")
    assert (address.server["port"], address.channel) == (1, "second")


def test_arguments_take_precedence(folder: Folder) -> None:
    folder.write("backends/redis.yml", {})
    folder.task("t")
    address = folder.find("t", url="redis://h:5", channel="mine")
    assert address.server == {"host": "h", "port": 5}
    assert address.channel == "mine"
    assert folder.find("t", url="redis://h").channel == "control"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://h", {"host": "h", "password": "hidden"}),
        ("redis://:mine@h", {"host": "h", "password": "mine"}),
        ("redis://u@h", {"host": "h", "username": "u", "password": "hidden"}),
        ("unix:///s", {"unix_socket": "/s", "password": "hidden"}),
    ],
)
def test_password_from_the_environment(
    url: str,
    found: Dict[str, Any],
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDISCLI_AUTH", "hidden")
    address = folder.find("t", url=url)
    assert address.server == found
    is_told = any("REDISCLI_AUTH" in note for note in address.notes)
    assert is_told == (found["password"] == "hidden")
    assert "hidden" not in f"{address} {address!r} {address.notes}"


def test_password_from_the_environment_wherever_it_is_missing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDISCLI_AUTH", "hidden")
    nothing = folder.find("t")
    assert nothing.server == {"password": "hidden"}
    assert nothing.is_password_spare
    folder.write("backends/redis.yml", {"port": 7})
    assert folder.find("t").server == {"port": 7, "password": "hidden"}
    # The file's own comes first, and a server must take it.
    folder.write("backends/redis.yml", {"port": 7, "password": "mine"})
    own = folder.find("t")
    assert own.server == {"port": 7, "password": "mine"}
    assert not own.is_password_spare
    monkeypatch.setenv("REDISCLI_AUTH", "")
    assert folder.find("t", url="redis://h").server == {"host": "h"}


def test_no_such_backend(folder: Folder) -> None:
    with pytest.raises(NoAddress, match=r"no backend 'nope'.*nope\.yml$"):
        folder.find("t", backend="nope")
    folder.write("backends/redis.yml", {})
    folder.write("backends/far.yml", {"type": "redis"})
    with pytest.raises(NoAddress, match=r"; known.* far, redis$"):
        folder.find("t", backend="nope")
    with pytest.raises(NoAddress, match=r"; did you mean 'redis'\?$"):
        folder.find("t", backend="rediss")
    for name in ("far", "redis"):
        (folder.path / f"backends/{name}.yml").unlink()
    folder.write("backends/bad.yml", {"type": "redis", "port": "x"})
    with pytest.raises(NoAddress, match=r"bad\.yml:1: port: must be"):
        folder.find("t", backend="bad")
    with pytest.raises(NoAddress, match=r"no usable backend: .*bad\.yml:1: p"):
        folder.find("t")


def test_no_backend_is_a_redis(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder.find("t").assumed
    monkeypatch.setitem(backends.BUILT_IN, "other", FakeBackend)
    folder.write("backends/other.yml", {})
    with pytest.raises(NoAddress, match="no usable backend: none is a redis"):
        folder.find("t")


@pytest.mark.parametrize("name", ["backends/redis.yaml", "backend/redis.yml"])
def test_no_server_is_guessed_beside_a_misnamed_file(
    name: str, folder: Folder
) -> None:
    (folder.path / name).parent.mkdir(exist_ok=True)
    folder.write(name, {"host": "r"})
    with pytest.raises(NoAddress, match="no usable backend: .* is not read: "):
        folder.find("t")


def forbid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody read a path; root may read all files."""

    def refuse(real: Any, *arguments: Any, **more: Any) -> Any:
        if arguments[0] in (path, str(path)):
            raise PermissionError(13, "Permission denied")
        return real(*arguments, **more)

    for name in ("open", "listdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, functools.partial(refuse, real))
    monkeypatch.setattr(os, "access", lambda found, mode: found != path)


REDIS, FAR = "backends/redis.yml", "backends/far.yml"
TASK = "tasks/t-redis-control.yml"
URL = {"url": "redis://h"}


@pytest.mark.parametrize(
    ("path", "arguments", "is_needed"),
    [
        (REDIS, {}, True),
        (REDIS, {"backend": "redis"}, True),
        (REDIS, {"backend": "redis", "channel": "c"}, True),
        (REDIS, {"channel": "c"}, True),
        # The task's channel is not known without its backend,
        (REDIS, URL, True),
        (REDIS, {**URL, "channel": "c"}, False),
        (REDIS, {"backend": "far"}, False),
        # nor whether it is on this one.
        (FAR, {"task": "other"}, True),
        (FAR, {"task": "other", "backend": "redis"}, False),
        (FAR, {}, False),
        ("backends", {}, True),
        ("backends", {"backend": "redis"}, True),
        ("backends", URL, True),
        ("backends", {**URL, "channel": "c"}, False),
        (TASK, {}, True),
        (TASK, {"task": None}, True),
        (TASK, {"backend": "redis"}, True),
        (TASK, {"backend": "redis", "channel": "c"}, False),
        (TASK, {"channel": "c"}, True),
        (TASK, URL, True),
        (TASK, {**URL, "channel": "c"}, False),
        ("tasks/one-redis-control.yml", {}, False),
        ("tasks", {}, True),
        ("tasks", {**URL, "channel": "c"}, False),
        ("agent.yml", {}, False),
    ],
)
def test_a_file_that_matters_cannot_be_read(
    path: str,
    arguments: Dict[str, Any],
    is_needed: bool,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder.write("agent.yml", {})
    folder.write(REDIS, {"host": "r"})
    folder.write(FAR, {"type": "redis", "host": "f"})
    folder.task("t")
    folder.task("one")
    forbid(folder.path / path, monkeypatch)
    arguments = {"task": "t", **arguments}
    if is_needed:
        with pytest.raises(NoAddress) as error:
            folder.find(**arguments)
        told = (
            f"{folder.path / path}: cannot be read: Permission denied; use "
            "sudo, or give both --url and --channel"
        )
        assert str(error.value) == told
    else:
        assert not folder.find(**arguments).assumed


@pytest.mark.parametrize(
    "files", [{"password_file": "/x"}, {"tls": {"ca": "/x"}}]
)
def test_a_file_of_the_login_cannot_be_read(
    files: Dict[str, Any], folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(REDIS, files)
    folder.task("t")
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/x")
    with pytest.raises(NoAddress, match="^/x: cannot be read; use sudo, or"):
        folder.find("t")
    assert folder.find("t", **URL).channel == "control"


def test_a_folder_that_cannot_be_reached(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: Any, *arguments: Any, **more: Any) -> Any:
        if str(path).startswith(str(folder.path)):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "stat", stat)
    forbid(folder.path / "backends", monkeypatch)
    with pytest.raises(NoAddress, match="cannot be read: Permission denied"):
        folder.find("t")
    assert folder.find("t", channel="c", **URL).channel == "c"
