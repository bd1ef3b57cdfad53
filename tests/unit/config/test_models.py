"""Every key of every file: valid, of the wrong type, out of range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

import pytest

from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.config import plugins
from ngcp_task_agent.config.faults import Fault
from ngcp_task_agent.config.loader import Config, Loader
from ngcp_task_agent.config.models import (
    UNKNOWN_NODE,
    AgentConfig,
    BackendConfig,
    NodeConfig,
    TaskConfig,
)
from ngcp_task_agent.config.plugins import Plugins
from ngcp_task_agent.protocol.messages import Origin, Response
from tests.unit.fakes import FakeBackend, FakeBroker, needs_root, write

PLUGINS = Plugins(
    {"redis": RedisBackend, "fake": FakeBackend},
    {"command": CommandBroker, "fake": FakeBroker},
)
ONLY = Plugins({"redis": RedisBackend}, {"command": CommandBroker})


class Folder:
    """A configuration with the backends ``redis`` and ``main``."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.plugins = PLUGINS
        monkeypatch.setattr(plugins, "installed", lambda: self.plugins)

    def load(self, name: str, text: str) -> Tuple[Config, List[Fault]]:
        """Write a file, read all, and return the faults of that file."""
        path = write(self.path / name, text)
        config = Loader(self.path).load()
        return config, [f for f in config.faults if f.path == path]

    def agent(self, text: str) -> Tuple[AgentConfig, List[Fault]]:
        config, faults = self.load("agent.yml", text)
        return config.agent, faults

    def backend(
        self, text: str, name: str = "redis"
    ) -> Tuple[Optional[BackendConfig], List[Fault]]:
        config, faults = self.load(f"backends/{name}.yml", text)
        return config.backends.get(name), faults

    def task(self, text: str) -> Tuple[Optional[TaskConfig], List[Fault]]:
        write(self.path / "backends/redis.yml", "")
        if "fake" in self.plugins.backends:
            write(self.path / "backends/main.yml", "type: fake\n")
        config, faults = self.load("tasks/x.yml", text)
        path = self.path / "tasks/x.yml"
        return next((t for t in config.tasks if t.path == path), None), faults


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


def short(fault: Fault) -> str:
    """Return a fault without the folder of its file."""
    return str(fault).replace(f"{fault.path.parent}/", "")


def places(faults: List[Fault]) -> List[Tuple[int, str]]:
    return [(fault.line, fault.where) for fault in faults]


@pytest.mark.parametrize("text", ["", "---\n", "{}", "node: {}"])
def test_agent_defaults(folder: Folder, text: str) -> None:
    config, faults = folder.agent(text)
    assert (config, faults) == (AgentConfig(), [])
    assert config is not None
    assert config.max_request == 1 << 20
    assert config.max_response == 8 << 20
    assert config.max_request_memory == 64 << 20
    assert config.max_running == 64
    assert config.stop_timeout == 20
    assert config.node == NodeConfig()


def test_agent_with_every_key(folder: Folder) -> None:
    config, faults = folder.agent("""
            node:
                name: prx01a
                aliases: [prx01a.example.org]
                roles: [proxy]
                state_command: [/usr/sbin/ngcp-check-active, -v]
                status: online
                labels: {site: vienna}
            max_request: 2M
            max_response: 16384
            max_request_memory: 1G
            max_running: 1
            stop_timeout: 0.5
            built_in_tasks: [ngcp.ping]
            built_in_allow_src: ['op*']
            """)
    assert faults == []
    assert config == AgentConfig(
        NodeConfig(
            name="prx01a",
            aliases=("prx01a.example.org",),
            roles=("proxy",),
            state_command=("/usr/sbin/ngcp-check-active", "-v"),
            status="online",
            labels={"site": "vienna"},
        ),
        max_request=2 << 20,
        max_response=16384,
        max_request_memory=1 << 30,
        max_running=1,
        stop_timeout=0.5,
        built_in_tasks=("ngcp.ping",),
        built_in_allow_src=("op*",),
    )


@pytest.mark.parametrize(("text", "number"), [("yes", 4), ("no", 0)])
def test_all_built_in_tasks_or_none(
    folder: Folder, text: str, number: int
) -> None:
    config, faults = folder.agent(f"built_in_tasks: {text}\n")
    assert faults == []
    assert config
    assert len(config.built_in_tasks) == number


@needs_root
def test_a_state_command_that_others_could_change(folder: Folder) -> None:
    program = write(folder.path / "state", "#!/bin/sh\n")
    text = f"max_running: 3\nnode: {{state_command: [{program}]}}"
    config, faults = folder.agent(text)
    assert faults == []
    program.chmod(0o757)
    config, (fault,) = folder.agent(text)
    assert config == UNKNOWN_NODE
    assert short(fault).startswith(
        "agent.yml:2: node.state_command: state is writable by everyone: only"
    )


def test_a_state_command_that_does_not_exist(folder: Folder) -> None:
    path = write(
        folder.path / "agent.yml", "node: {state_command: [/no/such]}"
    )
    assert Loader(folder.path).load().warnings == ()
    (warning,) = Loader(folder.path, checking=True).check(path).warnings
    assert short(warning) == (
        "agent.yml:1: node.state_command: there is no program '/no/such'"
    )


LOGINS = [
    pytest.param("host: redis.example.org\npassword: x", 2, id="name"),
    pytest.param("password_file: /x\nhost: 10.0.0.1", 1, id="address"),
    pytest.param("host: '::2'\npassword: x", 2, id="address-6"),
    pytest.param("host: a\npassword: x\ntls: {}", 0, id="tls"),
    pytest.param("host: a\nusername: x", 0, id="no-password"),
    pytest.param("password: x", 0, id="default"),
    pytest.param("host: localhost\npassword: x", 0, id="localhost"),
    pytest.param("host: 127.0.0.2\npassword: x", 0, id="loopback"),
    pytest.param("host: '::1'\npassword: x", 0, id="loopback-6"),
    pytest.param("unix_socket: /x\npassword: x", 0, id="socket"),
]


@pytest.mark.parametrize(("text", "line"), LOGINS)
def test_a_password_in_the_clear(folder: Folder, text: str, line: int) -> None:
    config, faults = folder.load("backends/redis.yml", text)
    assert faults == []
    assert [(w.line, w.what) for w in config.warnings] == [
        (line, "goes to another machine unencrypted: use tls")
    ] * (line > 0)


@needs_root
def test_what_the_agent_runs_and_reads(folder: Folder) -> None:
    """A file that others could change is a fault, or a warning."""
    program = write(folder.path / "program", "#!/bin/sh\n")
    program.chmod(0o757)
    write(folder.path / "backends/redis.yml", f"tls: {{ca: {program}}}\n")
    text = (
        "name: x\nbackend: redis\nbackend_options: {control_channel: c}\n"
        f"broker: command\nbroker_options:\n  run: {program}\n"
    )
    for more in ("", "  as_user: root\n"):
        config, (fault,) = folder.load("tasks/x.yml", text + more)
        assert short(fault).startswith(
            f"x.yml:6: broker_options.run: {program} is writable by everyone"
        )
        (warning,) = config.warnings
        assert short(warning).startswith(
            f"redis.yml:1: tls.ca: {program} is writable by everyone: others "
            "could change what is read there; fix: chmod go-w "
        )
    config, faults = folder.load("tasks/x.yml", text + "  as_user: nobody\n")
    assert faults == []
    assert len(config.warnings) == 2
    assert f"{program} is writable by everyone" in str(config.warnings[1])
    # Nothing runs it.
    config, faults = folder.load("tasks/x.yml", text + "enabled: no\n")
    assert faults == []


def test_a_format_that_is_not_checked(folder: Folder) -> None:
    text = """\
data_schema:
    prefixItems:
    - format: date
    - properties: {format: {
        format: hostname}}
    - const: {format: x}
      format: time
"""
    write(folder.path / "backends/redis.yml", "")
    config, faults = folder.load("tasks/x.yml", text + PING[5:])
    assert (faults, config.warnings) == ([], ())
    config = Loader(folder.path, checking=True).load()
    known = "date, email, idn-email, ipv4, ipv6, regex, uuid"
    where = "data_schema.prefixItems"
    told = [short(w) for w in config.warnings if "data_schema" in str(w)]
    assert told == [
        f"x.yml:{line}: {where}{key}.format: is not checked; checked: {known}"
        for line, key in ((5, "[1].properties.format"), (7, "[2]"))
    ]


def test_agent_with_a_state(folder: Folder) -> None:
    config, _ = folder.agent("node: {state: standby, roles: []}")
    assert config is not None
    assert config.node.state == "standby"
    assert config.node.roles == ()


_LONG = "x" * 256
_WORST = "\U0001f600"  # the most bytes of any printable character

AGENT_FAULTS = [
    pytest.param("roles: [a]", "roles", "it belongs in node", id="place"),
    pytest.param(f"node: {{name: {_LONG}}}", "node.name", "255", id="long"),
    pytest.param(
        'node: {name: "a\\tb"}', "node.name", "printable", id="control"
    ),
    pytest.param(
        'node: {name: "a\\u202eb"}', "node.name", "printable", id="direction"
    ),
    pytest.param(
        f"node: {{aliases: [{_LONG}]}}", "node.aliases[0]", "", id="alias-long"
    ),
    pytest.param(
        f"node: {{roles: [{_LONG}]}}", "node.roles[0]", "255", id="role-long"
    ),
    pytest.param(
        f"node: {{labels: {{a: {_LONG}}}}}",
        "node.labels.a",
        "255",
        id="label-value-long",
    ),
    pytest.param(
        f"node: {{labels: {{{_LONG}: a}}}}",
        f"node.labels.{_LONG}",
        "255",
        id="label",
    ),
    pytest.param("[]", "", "mapping", id="a-list"),
    pytest.param("x", "", "mapping", id="a-string"),
    pytest.param("nodes: {}", "nodes", "mean 'node'?", id="unknown"),
    pytest.param("node: x", "node", "mapping", id="node"),
    pytest.param(
        "node: {nam: x}", "node.nam", "unknown key", id="node-unknown"
    ),
    pytest.param("node: {name: 1}", "node.name", "a name", id="name"),
    pytest.param("node: {name: ''}", "node.name", "a name", id="name-empty"),
    pytest.param("node: {aliases: x}", "node.aliases", "list", id="aliases"),
    pytest.param("node: {aliases: [1]}", "node.aliases[0]", "", id="alias"),
    pytest.param("node: {roles: proxy}", "node.roles", "list", id="roles"),
    pytest.param("node: {roles: [lb, '']}", "node.roles[1]", "", id="role"),
    pytest.param("node: {state: yes}", "node.state", "state", id="state"),
    pytest.param(
        "node: {state_command: x}", "node.state_command", "list", id="command"
    ),
    pytest.param(
        "node: {state_command: []}",
        "node.state_command",
        "list",
        id="command-empty",
    ),
    pytest.param(
        "node: {state: active, state_command: [x]}",
        "node.state_command",
        "give state or state_command, not both",
        id="state-and-command",
    ),
    pytest.param("node: {status: 1}", "node.status", "status", id="status"),
    pytest.param("node: {labels: []}", "node.labels", "map", id="labels"),
    pytest.param(
        "node: {labels: {site: 1}}", "node.labels.site", "quotes", id="site"
    ),
    pytest.param(
        "node: {labels: {state: x}}",
        "node.labels.state",
        "other",
        id="label-state",
    ),
    pytest.param(
        "node: {labels: {Role: x}}",
        "node.labels.Role",
        "other",
        id="label-role",
    ),
    pytest.param("max_request: x", "max_request", "8M", id="request"),
    pytest.param("max_request: -1", "max_request", "8M", id="request-less"),
    pytest.param("max_request: 1.0", "max_request", "8M", id="request-float"),
    pytest.param("max_request: 1023", "max_request", "1024", id="request-few"),
    pytest.param("max_response: 1T", "max_response", "8M", id="response"),
    pytest.param(
        "max_response: 16383", "max_response", "16384", id="response-few"
    ),
    pytest.param(
        "max_request_memory: 1048575",
        "max_request_memory",
        "1048576",
        id="memory-few",
    ),
    pytest.param(
        "max_request: 3M\nmax_request_memory: 2M",
        "max_request",
        "exceeds max_request_memory, 2097152 bytes",
        id="request-beyond-memory",
    ),
    pytest.param("max_running: 0", "max_running", "1 to", id="running"),
    pytest.param("max_running: 10001", "max_running", "1 to", id="too-many"),
    pytest.param("max_running: '8'", "max_running", "1 to", id="no-number"),
    pytest.param(
        "built_in_tasks: [ngcp.ping, ngcp.pong]",
        "built_in_tasks[1]",
        "one of ngcp.ping, ngcp.describe, ngcp.jobs, ngcp.cancel",
        id="built-in-unknown",
    ),
    pytest.param(
        "built_in_tasks: ngcp.ping",
        "built_in_tasks",
        "yes, no, or a list",
        id="built-in-text",
    ),
    pytest.param(
        "built_in_allow_src: web", "built_in_allow_src", "a list", id="src"
    ),
    pytest.param("stop_timeout: -1", "stop_timeout", "0 to", id="stop"),
    pytest.param("stop_timeout: 3601", "stop_timeout", "0 to", id="stop-long"),
    pytest.param("stop_timeout: 20s", "stop_timeout", "0 to", id="stop-unit"),
]


@pytest.mark.parametrize(("text", "where", "what"), AGENT_FAULTS)
def test_agent_fault(folder: Folder, text: str, where: str, what: str) -> None:
    _, (fault,) = folder.agent(text)
    prefix = f"agent.yml:1: {where}: " if where else "agent.yml:1: "
    assert short(fault).startswith(prefix)
    assert what in fault.what


def test_the_smallest_response_has_room_for_data(folder: Folder) -> None:
    """However long all other fields are."""
    least = 16384
    config, _ = folder.agent(
        f"node: {{name: {_WORST * 255}}}\nmax_response: {least}"
    )
    assert config is not None
    assert config.node.name == _WORST * 255
    for letter in ("\x01", '"', _WORST):
        # An invalid uuid can be this long.
        origin = Origin(letter * 128, letter * 128, letter * 255)
        for name in (config.node.name, "\x01" * 255):
            found = Response(
                origin, name, "error", letter * 2000, letter * 50_000
            ).encode(config.max_response)
            assert max(map(len, found)) <= least
            pieces = [json.loads(message)["data"] for message in found]
            assert "".join(pieces) == letter * 50_000


BACKEND_OPTIONS = [
    pytest.param("", {}, id="nothing"),
    pytest.param(
        "host: 127.0.0.1\nport: 6379\ndb: 40",
        {"host": "127.0.0.1", "port": 6379, "db": 40},
        id="as-shipped",
    ),
    pytest.param("type: redis", {}, id="type"),
    pytest.param(
        "unix_socket: /run/x.sock",
        {"unix_socket": "/run/x.sock"},
        id="unix-socket",
    ),
    pytest.param(
        "username: a\npassword: b",
        {"username": "a", "password": "b"},
        id="password",
    ),
    pytest.param(
        "password_file: /etc/p",
        {"password_file": "/etc/p"},
        id="password-file",
    ),
    pytest.param(
        "tls: {ca: /a, cert: /b, key: /c}",
        {"tls": {"ca": "/a", "cert": "/b", "key": "/c"}},
        id="tls",
    ),
    *(
        pytest.param(f"host: '{host}'", {"host": host}, id=f"host-{host}")
        for host in ("a-b.c", "10.0.0.1", "::1", "fe80::1%eth0")
    ),
    pytest.param("tls: {}", {"tls": {}}, id="tls-with-the-system's-ca"),
    pytest.param("ping_interval: 0.5", {"ping_interval": 0.5}, id="ping"),
]


@pytest.mark.parametrize(("text", "options"), BACKEND_OPTIONS)
def test_backend(folder: Folder, text: str, options: Any) -> None:
    config, faults = folder.backend(text)
    assert faults == []
    path = folder.path / "backends/redis.yml"
    assert config == BackendConfig(path, "redis", "redis", options)


def test_backend_of_another_type_than_its_name(folder: Folder) -> None:
    config, faults = folder.backend("type: redis\nport: 6380", "second")
    assert faults == []
    assert config is not None
    assert (config.name, config.type) == ("second", "redis")
    assert config.options == {"port": 6380}


BACKEND_FAULTS = [
    pytest.param("[]", "redis.yml:1: ", "mapping", id="a-list"),
    pytest.param("type: rabbit", "1: type: ", "fake, redis", id="type"),
    pytest.param("type: 1", "1: type: ", "a type", id="type-of-wrong-type"),
    pytest.param("type: [a]", "1: type: ", "a type", id="type-a-list"),
    pytest.param("type: ''", "1: type: ", "a type", id="type-empty-string"),
    pytest.param("type:", "1: type: ", "it is empty", id="type-empty"),
    pytest.param("hots: x", "1: hots: ", "mean 'host'?", id="unknown"),
    pytest.param("host: 1", "1: host: ", "host name", id="host"),
    pytest.param("host: ''", "1: host: ", "it is empty", id="host-empty"),
    *(
        pytest.param(
            f"host: {host}", "1: host: ", "without a port", id=f"host-{host}"
        )
        for host in ("redis://a", "a:6379", "'[::1]'", "a b", "redis://a:1")
    ),
    pytest.param("port: '1'", "1: port: ", "1 to 65535", id="port"),
    pytest.param("port: 0", "1: port: ", "1 to 65535", id="port-0"),
    pytest.param("port: 65536", "1: port: ", "1 to 65535", id="port-high"),
    pytest.param("port: 6379.0", "1: port: ", "1 to 65535", id="port-float"),
    pytest.param("db: -1", "1: db: ", "at least 0", id="db"),
    pytest.param("unix_socket: x", "1: unix_socket: ", "path", id="socket"),
    pytest.param(
        "username: ''", "1: username: ", "; it is empty", id="username"
    ),
    pytest.param("password: 7", "1: password: ", "quotes", id="password"),
    pytest.param("password_file: p", "1: password_file: ", "path", id="file"),
    pytest.param(
        "tls: yes",
        "1: tls: ",
        "must be a mapping of ca, cert and key; write {}",
        id="tls",
    ),
    pytest.param(
        "tls:\n  key: /x",
        "2: tls.key: ",
        "needs the key 'cert'",
        id="tls-key-alone",
    ),
    pytest.param("tls: {ca: x}", "1: tls.ca: ", "path", id="tls-ca"),
    pytest.param(
        "tls: {x: /y}", "1: tls.x: ", "unknown key", id="tls-unknown"
    ),
    pytest.param("ping_interval: 0", "1: ping_interval: ", "0.1", id="ping"),
    pytest.param(
        "ping_interval: 3601", "1: ping_interval: ", "3600", id="ping-long"
    ),
    pytest.param(
        "password: x\npassword_file: /y",
        "2: password_file: ",
        "give password or password_file, not both",
        id="two-passwords",
    ),
    pytest.param(
        "host: x\nunix_socket: /y",
        "2: unix_socket: ",
        "give host or unix_socket, not both",
        id="two-addresses",
    ),
    pytest.param(
        "unix_socket: /y\nport: 1",
        "2: port: ",
        "give port or unix_socket, not both",
        id="port-of-a-socket",
    ),
    pytest.param(
        "unix_socket: /y\n\ntls: {}",
        "3: tls: ",
        "give tls or unix_socket, not both",
        id="tls-on-a-socket",
    ),
]


@pytest.mark.parametrize(("text", "where", "what"), BACKEND_FAULTS)
def test_backend_fault(
    folder: Folder, text: str, where: str, what: str
) -> None:
    config, faults = folder.backend(text)
    assert config is None
    (fault,) = map(short, faults)
    assert where in fault
    assert what in fault


def test_backend_without_a_known_type(folder: Folder) -> None:
    config, faults = folder.backend("", "rabbit")
    assert config is None
    assert "'rabbit' is not a type" in str(faults[0])


# From the first version's documentation.
PING = """
---
name: ping_10_10_10_10
backend: redis
backend_options:
    control_channel: ngcp-task-agent-redis
broker: 'command'
broker_options:
    run: ping
    as_user: root
    args: -c 2 10.10.10.10
"""


def test_task_defaults(folder: Folder) -> None:
    config, faults = folder.task(PING)
    assert faults == []
    assert config is not None
    assert config.name == "ping_10_10_10_10"
    assert (config.backend, config.channel) == (
        "redis",
        "ngcp-task-agent-redis",
    )
    assert config.broker == "command"
    assert config.broker_options["args"] == "-c 2 10.10.10.10"
    assert config.description == ""
    assert config.enabled
    assert (config.max_running, config.max_queued) == (8, 64)
    assert (config.allow_src, config.data_schema) == (None, None)


def test_task_with_every_key(folder: Folder) -> None:
    text = PING + (
        "description: Is it there?\nenabled: yes\nmax_running: 2\n"
        "max_queued: 0\nallow_src: ['web*']\ndata_schema: {type: object}\n"
    )
    config, faults = folder.task(text)
    assert faults == []
    assert config is not None
    assert config.description == "Is it there?"
    assert (config.max_running, config.max_queued) == (2, 0)
    assert config.allow_src == ("web*",)
    assert config.data_schema == {"type": "object"}


def test_a_schema_must_be_json(folder: Folder) -> None:
    text = PING + "data_schema: {enum: [2024-01-01]}\n"
    config, (fault,) = folder.task(text)
    assert config is None
    assert "put it in quotes" in str(fault)


BROKER_OPTIONS = [
    pytest.param("run: ping", id="name"),
    pytest.param("run: /usr/bin/ping", id="path"),
    pytest.param("{run: a, args: [a, 'b c']}", id="args-a-list"),
    pytest.param("{run: a, args: \"a 'b c'\"}", id="args-a-string"),
    pytest.param("{run: a, extra_args: yes}", id="extra-args"),
    pytest.param("{run: a, extra_args: no}", id="no-extra-args"),
    pytest.param("{run: a, extra_args: ['[a-z]+']}", id="some-extra-args"),
    pytest.param("{run: a, stdin: none}", id="stdin-none"),
    pytest.param("{run: a, stdin: data}", id="stdin-data"),
    pytest.param("{run: a, timeout: 0}", id="no-timeout"),
    pytest.param("{run: a, timeout: 0.5}", id="short-timeout"),
    pytest.param("{run: a, max_output: 64K}", id="max-output"),
]


def with_broker_options(options: str) -> str:
    indented = options.replace("\n", "\n  ")
    return (
        "name: x\nbackend: redis\nbackend_options: {control_channel: c}\n"
        f"broker: command\nbroker_options:\n  {indented}\n"
    )


@pytest.mark.parametrize("options", BROKER_OPTIONS)
def test_command_options(folder: Folder, options: str) -> None:
    found = with_broker_options(options)
    config, faults = folder.task(found)
    assert faults == []
    assert config is not None


COMMAND_FAULTS = [
    pytest.param("{}", "5: broker_options: ", "'run' is missing", id="run"),
    pytest.param("run: 1", ".run: ", "a program", id="run-a-number"),
    pytest.param("run: ''", ".run: ", "a program", id="run-empty"),
    pytest.param("run: bin/ping", ".run: ", "absolute", id="run-relative"),
    pytest.param("run: ./ping", ".run: ", "absolute", id="run-dot"),
    pytest.param("run: /usr/bin/", ".run: ", "absolute", id="run-a-folder"),
    pytest.param("run: echo hello", ".run: ", "go into args", id="run-args"),
    pytest.param("{run: a, rum: b}", ".rum: ", "unknown key", id="unknown"),
    pytest.param("{run: a, as_user: 0}", ".as_user: ", "user", id="user"),
    pytest.param(
        "{run: a, as_user: ''}", ".as_user: ", "it is empty", id="nobody"
    ),
    pytest.param("{run: a, args: 1}", ".args: ", "shell", id="args"),
    pytest.param(
        "{run: a, args: [1]}", ".args[0]: ", "string", id="args-item"
    ),
    pytest.param(
        "run: a\nargs: it's",
        "7: broker_options.args: ",
        "No closing quotation",
        id="args-quote",
    ),
    pytest.param(
        "run: a\nargs: a\\",
        "7: broker_options.args: ",
        "No escaped character",
        id="args-backslash",
    ),
    pytest.param("{run: a, extra_args: x}", ".extra_args: ", "", id="extra"),
    pytest.param(
        "{run: a, extra_args: ['(']}", ".extra_args[0]: ", "regular", id="re"
    ),
    pytest.param(
        "{run: a, extra_args: [1]}", ".extra_args[0]: ", "string", id="re-type"
    ),
    pytest.param("{run: a, stdin: x}", ".stdin: ", "'data'", id="stdin"),
    pytest.param("{run: a, timeout: -1}", ".timeout: ", "seconds", id="time"),
    pytest.param("{run: a, timeout: 1m}", ".timeout: ", "seconds", id="unit"),
    pytest.param("{run: a, max_output: x}", ".max_output: ", "8M", id="size"),
    pytest.param(
        "{run: a, max_output: 8.0}", ".max_output: ", "8M", id="size-float"
    ),
]


@pytest.mark.parametrize(("options", "where", "what"), COMMAND_FAULTS)
def test_command_fault(
    folder: Folder, options: str, where: str, what: str
) -> None:
    found = with_broker_options(options)
    config, faults = folder.task(found)
    assert config is None
    (fault,) = map(short, faults)
    assert where in fault
    assert what in fault


TASK_FAULTS = [
    pytest.param("name", None, "1: ", "'name' is missing", id="no-name"),
    pytest.param("name", "1", "1: name: ", "128", id="name"),
    pytest.param("name", "''", "1: name: ", "128", id="name-empty"),
    pytest.param("name", "x" * 129, "1: name: ", "128", id="name-long"),
    pytest.param("backend", None, "", "'backend' is missing", id="no-backend"),
    pytest.param(
        "backend", "rabbit", "2: backend: ", "'rabbit.yml'", id="backend"
    ),
    pytest.param(
        "backend", "1", "2: backend: ", "name of a file", id="backend-type"
    ),
    pytest.param(
        "backend_options",
        "{}",
        "3: backend_options: ",
        "'queue' is missing",
        id="no-channel",
    ),
    pytest.param(
        "backend_options",
        None,
        "backend_options: ",
        "'queue' is missing",
        id="no-backend-options",
    ),
    pytest.param(
        "backend_options",
        "{queue: 1}",
        "backend_options.queue: ",
        "a queue",
        id="channel",
    ),
    pytest.param(
        "backend_options",
        "{queue: q, x: 1}",
        "backend_options.x: ",
        "unknown key",
        id="backend-option",
    ),
    pytest.param(
        "backend_options",
        "x",
        "3: backend_options: ",
        "mapping",
        id="backend-options",
    ),
    pytest.param("broker", None, "", "'broker' is missing", id="no-broker"),
    pytest.param(
        "backend", "''", "2: backend: ", "name of a file", id="backend-empty"
    ),
    pytest.param("broker", "''", "4: broker: ", "a broker", id="no-name"),
    pytest.param("broker", "1", "4: broker: ", "quotes", id="broker-a-number"),
    pytest.param(
        "broker", "", "4: broker: ", "it is empty", id="broker-empty"
    ),
    pytest.param(
        "broker", "robot", "4: broker: ", "command, fake", id="broker"
    ),
    pytest.param(
        "broker_options",
        "x",
        "5: broker_options: ",
        "mapping",
        id="broker-options",
    ),
    pytest.param(
        "broker_options",
        "{bad: yes}",
        "5: broker_options: ",
        "not fit together",
        id="refused-by-the-broker",
    ),
    pytest.param(
        "description", "1", "6: description: ", "string", id="description"
    ),
    pytest.param("enabled", "1", "6: enabled: ", "yes or no", id="enabled"),
    pytest.param(
        "enabled", "'yes'", "6: enabled: ", "yes or no", id="enabled-quoted"
    ),
    pytest.param("max_running", "0", "6: max_running: ", "1 to", id="running"),
    pytest.param(
        "max_running", "1.5", "6: max_running: ", "1 to", id="running-half"
    ),
    pytest.param("max_queued", "-1", "6: max_queued: ", "0 to", id="queued"),
    pytest.param(
        "max_queued", "100001", "6: max_queued: ", "0 to", id="queued-many"
    ),
    pytest.param("allow_src", "web*", "6: allow_src: ", "list", id="allow"),
    pytest.param(
        "allow_src", "['']", "6: allow_src[0]: ", "it is empty", id="src"
    ),
    pytest.param(
        "allow_src", "[1]", "6: allow_src[0]: ", "string", id="allow-item"
    ),
    pytest.param(
        "data_schema", "x", "6: data_schema: ", "JSON Schema", id="schema"
    ),
    pytest.param(
        "data_schema",
        "{type: dict}",
        "6: data_schema.type: ",
        "unknown type 'dict'; known: array, boolean,",
        id="schema-type",
    ),
    pytest.param(
        "data_schema",
        "{properties: {a: {minimum: x}}}",
        "data_schema.properties.a.minimum: ",
        "must be a number; this is a string",
        id="schema-deep",
    ),
    pytest.param(
        "data_schema",
        "{$ref: 'http://localhost/x'}",
        "6: data_schema.$ref: ",
        "self-contained",
        id="schema-elsewhere",
    ),
    pytest.param(
        "data_schema",
        "{pattern: '('}",
        "6: data_schema.pattern: ",
        "regular expression",
        id="schema-pattern",
    ),
    pytest.param(
        "data_schema",
        "{patternProperties: {'(': {}}}",
        "6: data_schema.patternProperties.(: ",
        "regular expression",
        id="schema-pattern-properties",
    ),
    pytest.param(
        "data_schema",
        "{$ref: '#/$defs/x'}",
        "6: data_schema.$ref: ",
        "leads to nothing in this schema",
        id="schema-dangling",
    ),
    pytest.param(
        "data_schema",
        "\n  type: object\n  $ref: '#'",
        "8: data_schema.$ref: ",
        "refers to itself in an endless loop",
        id="schema-endless",
    ),
    pytest.param("timeout", "1", "6: timeout: ", "unknown key", id="unknown"),
]


@pytest.mark.parametrize(("key", "value", "where", "what"), TASK_FAULTS)
def test_task_fault(
    folder: Folder, key: str, value: Any, where: str, what: str
) -> None:
    keys = {
        "name": "x",
        "backend": "main",
        "backend_options": "{queue: q}",
        "broker": "fake",
        "broker_options": "{}",
    }
    keys[key] = value
    text = "".join(f"{k}: {v}\n" for k, v in keys.items() if v is not None)
    config, faults = folder.task(text)
    assert config is None
    (fault,) = map(short, faults)
    assert where in fault
    assert what in fault


def test_all_faults_of_a_task_at_once(folder: Folder) -> None:
    text = (
        "nam: x\nbackend: redis\nbackend_options: {}\nbroker: command\n"
        "broker_options: {args: 1}\nmax_running: 0\n"
    )
    config, faults = folder.task(text)
    assert config is None
    assert places(faults) == [
        (1, ""),
        (1, "nam"),
        (3, "backend_options"),
        (5, "broker_options"),
        (5, "broker_options.args"),
        (6, "max_running"),
    ]


NO_TASKS = [
    pytest.param("", "x.yml: is empty: ", id="empty"),
    pytest.param("---\n# name: x\n", "x.yml: is empty: ", id="comment"),
    pytest.param("[]", "x.yml:1: must be a mapping", id="list"),
    pytest.param("- name: x", "without '- '", id="list-of-tasks"),
    pytest.param("x", "x.yml:1: must be a mapping", id="string"),
    pytest.param("1", "x.yml:1: must be a mapping", id="number"),
]


@pytest.mark.parametrize(("text", "what"), NO_TASKS)
def test_a_task_is_a_mapping(folder: Folder, text: str, what: str) -> None:
    config, faults = folder.task(text)
    assert config is None
    (fault,) = map(short, faults)
    assert what in fault


def test_hint_where_a_key_belongs(folder: Folder) -> None:
    text = (
        "name: x\nbackend: redis\ncontrol_channel: c\nbroker: command\n"
        "run: ping\n"
    )
    _, faults = folder.task(text)
    assert [short(fault) for fault in faults if fault.line > 1] == [
        "x.yml:3: control_channel: unknown key; it belongs in backend_options",
        "x.yml:5: run: unknown key; it belongs in broker_options",
    ]


MEANT = [
    pytest.param("backend: redis.yml", "; did you mean 'redis'?", id="file"),
    pytest.param("backend: rediss", "; did you mean 'redis'?", id="backend"),
    pytest.param("backend: x", "; known: faulty, main, redis", id="none"),
    pytest.param(
        "backend: faulty",
        "'faulty' cannot be used: it has faults",
        id="faulty-backend",
    ),
    pytest.param("broker: comand", "; did you mean 'command'?", id="broker"),
    pytest.param("broker: cron", "; known: command, fake", id="no-broker"),
]


@pytest.mark.parametrize(("line", "meant"), MEANT)
def test_hint_for_an_unknown_name(
    folder: Folder, line: str, meant: str
) -> None:
    key = line.partition(":")[0]
    lines = [line if x.startswith(f"{key}:") else x for x in PING.split("\n")]
    write(folder.path / "backends/faulty.yml", "port: x\n")
    _, (fault,) = folder.task("\n".join(lines))
    assert str(fault).endswith(meant)


def test_hint_for_an_unknown_type(folder: Folder) -> None:
    _, (fault,) = folder.backend("type: Redis", "second")
    assert short(fault) == (
        "second.yml:1: type: unknown type 'Redis'; did you mean 'redis'?"
    )


def test_the_file_name_is_the_type(folder: Folder) -> None:
    _, (fault,) = folder.backend("port: 1", "main")
    assert short(fault) == (
        "main.yml:1: type: is missing, and 'main' is not a type; "
        "known: fake, redis"
    )


def test_all_faults_of_the_agent_at_once(folder: Folder) -> None:
    text = (
        "max_request: 5\nmax_response: 6\nmax_running: 0\nnode:\n"
        "  state: active\n  state_command: [x]\n  name: 1\nfoo: 1\n"
    )
    _, faults = folder.agent(text)
    assert places(faults) == [
        (1, "max_request"),
        (2, "max_response"),
        (3, "max_running"),
        (6, "node.state_command"),
        (7, "node.name"),
        (8, "foo"),
    ]


@pytest.mark.parametrize("line", ["type: rabbit", "type: 5", "foo: 1"])
def test_all_faults_of_a_backend_at_once(folder: Folder, line: str) -> None:
    text = f"{line}\nhots: x\nport: y\nhost: z\nunix_socket: /s\n"
    folder.plugins = ONLY
    config, faults = folder.backend(text, "main")
    assert config is None
    expected = [
        (2, "hots"),
        (3, "port"),
        (5, "unix_socket"),
        (5, "unix_socket"),
    ]
    if line == "foo: 1":
        expected = [(1, "foo"), (1, "type"), *expected]
    else:
        expected = [(1, "type"), *expected]
    assert places(faults) == expected


def test_options_of_any_plugin_are_valid_for_an_unknown_one(
    folder: Folder,
) -> None:
    """The fake ones know neither; each has keys that the other lacks."""
    text = "type: rabbit\nhost: x\n"
    _, faults = folder.backend(text, "x")
    assert places(faults) == [(1, "type")]


NO_BROKER = [
    pytest.param("broker: comand", "broker", id="misspelt"),
    pytest.param("broker: 5", "broker", id="a-number"),
    pytest.param("# broker", "", id="missing"),
]


@pytest.mark.parametrize(("line", "where"), NO_BROKER)
def test_all_faults_of_the_options_of_an_unknown_broker(
    folder: Folder, line: str, where: str
) -> None:
    text = (
        f"{line}\nname: x\nbackend: redis\n"
        "backend_options: {control_channel: c}\n"
        "broker_options:\n  run: x\n  args: it's\n  timeout: soon\n"
    )
    folder.plugins = ONLY
    _, faults = folder.task(text)
    first = (1, where) if where else (2, "")
    assert places(faults) == [
        first,
        (7, "broker_options.args"),
        (8, "broker_options.timeout"),
    ]


@pytest.mark.parametrize("name", ["faulty", "redsi", "5"])
def test_all_faults_of_the_options_of_an_unknown_backend(
    folder: Folder, name: str
) -> None:
    text = (
        f"name: x\nbackend: {name}\nbackend_options:\n  control_channel: 5\n"
        "  foo: 1\nbroker: command\nbroker_options: {run: x}\n"
    )
    folder.plugins = ONLY
    write(folder.path / "backends/faulty.yml", "port: x\n")
    _, faults = folder.task(text)
    assert places(faults) == [
        (2, "backend"),
        (4, "backend_options.control_channel"),
        (5, "backend_options.foo"),
    ]


def test_an_unclosed_quote_beside_other_faults(
    folder: Folder,
) -> None:
    found = with_broker_options("rum: x\ntimeout: x\nargs: it's\nrun: a")
    _, faults = folder.task(found)
    assert places(faults) == [
        (6, "broker_options.rum"),
        (7, "broker_options.timeout"),
        (8, "broker_options.args"),
    ]


def test_a_broker_is_not_made_from_faulty_options(folder: Folder) -> None:
    config, faults = folder.task(
        "name: x\nbackend: main\nbackend_options: {queue: q}\nbroker: fake\n"
        "broker_options: {bad: !!bool maybe}\nmax_running: 0\n"
    )
    assert config is None
    assert places(faults) == [(5, "broker_options.bad"), (6, "max_running")]


def test_a_channel_is_not_made_from_faulty_options(folder: Folder) -> None:
    class Backend(FakeBackend):
        @classmethod
        def channel(cls, task_options: Mapping[str, Any]) -> str:
            return str(task_options["queue"].lower())

    folder.plugins = Plugins({"fake": Backend}, {"fake": FakeBroker})
    _, faults = folder.task(
        "name: x\nbackend: main\nbackend_options: {queue: !!bool maybe}\n"
        "broker: fake\nmax_running: 0\n"
    )
    assert places(faults) == [(3, "backend_options.queue"), (5, "max_running")]


def test_a_faulty_size(folder: Folder) -> None:
    _, faults = folder.agent("max_request: .inf\nfoo: 1\n")
    assert places(faults) == [(1, "max_request"), (2, "foo")]


def test_a_duplicate_name_beside_other_faults(folder: Folder) -> None:
    write(folder.path / "tasks/a.yml", PING)
    text = PING.replace("name:", "foo: 1\nname:")
    _, faults = folder.task(text)
    assert places(faults) == [(3, "foo"), (4, "name")]
    _, faults = folder.task(text + "enabled: no\n")
    assert places(faults) == [(3, "foo")]
    # Without a name or a channel, there is nothing to compare.
    for missing in ("name: ping_10_10_10_10", "ngcp-task-agent-redis"):
        write(folder.path / "tasks/a.yml", PING.replace(missing, ""))
        _, faults = folder.task(PING.replace(missing, ""))
        assert len(faults) == 1


SCHEMAS = [
    pytest.param("{$ref: '#/$defs/x', $defs: {x: {}}}", id="definition"),
    pytest.param("{items: {$ref: '#'}}", id="itself"),
    pytest.param("{$ref: '#a', $defs: {x: {$anchor: a}}}", id="anchor"),
    pytest.param("{$ref: '#/$defs/a~1b', $defs: {a/b: {}}}", id="escaped"),
    pytest.param("yes", id="boolean"),
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_data_schema(folder: Folder, schema: str) -> None:
    text = PING + f"data_schema: {schema}\n"
    config, faults = folder.task(text)
    assert faults == []
    assert config is not None
