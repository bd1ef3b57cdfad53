"""The man pages match the code: no key, option or reason is missing.

Defaults, limits and examples are taken from a page, and checked against the
code.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import importlib
import inspect
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import pytest
import yaml

from ngcp_task_agent import errors
from ngcp_task_agent.backends import (
    backoff,
    base,
    outbox,
)
from ngcp_task_agent.backends.redis import (
    RedisBackend,
    backend,
    dial,
    lane,
    live_lane,
    publisher,
    reconnector,
    replies,
)
from ngcp_task_agent.backends.redis import options as redis_options
from ngcp_task_agent.backends.redis import server as redis_server
from ngcp_task_agent.brokers import agent as agent_broker
from ngcp_task_agent.brokers import program, stderr
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.brokers.systemd import transient, unit
from ngcp_task_agent.brokers.systemd.options import OPTIONS_SCHEMA
from ngcp_task_agent.brokers.systemd.properties import PROPERTIES_SCHEMA
from ngcp_task_agent.brokers.systemd.transient import TransientBroker
from ngcp_task_agent.bus import frames
from ngcp_task_agent.client.discovery import find
from ngcp_task_agent.config import models as settings
from ngcp_task_agent.config import permissions, yaml_file
from ngcp_task_agent.config.loader import Loader
from ngcp_task_agent.config.plugins import installed
from ngcp_task_agent.config.yaml_file import Document
from ngcp_task_agent.ctl import arguments as ctl_arguments
from ngcp_task_agent.ctl import failure, records, since, stories
from ngcp_task_agent.ctl import log as ctl_log
from ngcp_task_agent.daemon import agent, cli, metrics, prometheus, runtime
from ngcp_task_agent.logs import journal
from ngcp_task_agent.logs.lines import LONGEST
from ngcp_task_agent.management import callers, interface, reload
from ngcp_task_agent.node import node
from ngcp_task_agent.process import run as process
from ngcp_task_agent.process import users
from ngcp_task_agent.protocol import destination, messages
from ngcp_task_agent.protocol.pattern import Pattern
from ngcp_task_agent.requests import (
    check_time,
    dispatch,
    live_output,
    reply,
    task,
    validate,
)
from ngcp_task_agent.requests.counters import COUNTED
from tests.unit import fakes

ROOT = Path(__file__).parents[2]
DAEMON = "ngcp-task-agent.8"
FILES = "ngcp-task-agent.yml.5"
PROTOCOL = "ngcp-task-agent-protocol.7"
CTL = "ngcp-task-agentctl.1"
UNIT = "ngcp-task-agent"
PAGES = (DAEMON, FILES, PROTOCOL)
ALL_PAGES = sorted(os.listdir(ROOT / "man"))

Schema = Mapping[str, Any]


# Reading mdoc(7), as far as the pages use it.


def source(page: str) -> str:
    return (ROOT / "man" / page).read_text()


def part(page: str, section: str, subsection: Optional[str] = None) -> str:
    """Return the source of a section or of one of its subsections."""
    text = between(source(page), f".Sh {section}\n", ".Sh ")
    if subsection is not None:
        # A first word that is a macro of mdoc is escaped with this.
        text = text.replace(".Ss \\&", ".Ss ")
        text = between(text, f".Ss {subsection}\n", ".Ss ")
    return text


def between(text: str, begin: str, end: str) -> str:
    _, found, rest = f"\n{text}".partition(f"\n{begin}")
    assert found, f"no line '{begin}'"
    return rest.partition(f"\n{end}")[0] + "\n"


def items(text: str) -> Dict[str, str]:
    """Return the bodies of list items by their heads.

    Items without a body share that of the next one with a body.
    """
    found: Dict[str, str] = {}
    for item in re.split(r"^\.It ", text, flags=re.M)[1:]:
        head, _, body = item.partition("\n")
        assert head not in found, f"two items '{head}'"
        found[head] = body
    return found


def plain(text: str) -> str:
    """Return the words of mdoc source in a line, without its macros."""
    text = re.sub(r"^\.\\\".*\n", "", text, flags=re.M)
    text = re.sub(r"^\.(?:Pp|br|Ed|El|B[dl].*)$", "", text, flags=re.M)
    text = re.sub(r"^\.[A-Z][a-z] (?:Fl )*", "", text, flags=re.M)
    text = re.sub(r" ([.,;:)])$", r"\1", text, flags=re.M)
    return " ".join(unescape(text).split())


def unescape(text: str) -> str:
    for escape, letter in (
        (r"\-", "-"),
        (r"\&", ""),
        (r"\(aq", "'"),
        (r"\(dq", '"'),
        (r"\(ha", "^"),
        (r"\(ti", "~"),
        (r"\(ga", "`"),
        (r"\e", "\\"),
    ):
        text = text.replace(escape, letter)
    return text


def literals(text: str) -> List[str]:
    found = re.findall(r"^\.Bd -literal.*\n((?s:.*?))^\.Ed", text, flags=re.M)
    return [unescape(block) for block in found]


# The pages themselves.


def run_tool(*argv: str, **variables: str) -> str:
    if not shutil.which(argv[0]):
        assert os.environ.get("CI") != "true", f"{argv[0]} is missing"
        pytest.skip(f"{argv[0]} is not installed")
    environment = {"LC_ALL": "C.UTF-8", "MANROFFSEQ": "", **variables}
    done = subprocess.run(
        argv,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
    )
    output = done.stderr if argv[0] == "man" else done.stdout + done.stderr
    return output.decode()


@pytest.mark.parametrize("page", ALL_PAGES)
def test_mandoc_finds_nothing(page: str) -> None:
    path = str(ROOT / "man" / page)
    assert run_tool("mandoc", "-T", "lint", "-W", "warning", path) == ""


@pytest.mark.parametrize("page", ALL_PAGES)
def test_man_warns_of_nothing(page: str) -> None:
    """On terminals of any usual width."""
    path = str(ROOT / "man" / page)
    options = ("--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z")
    found = {
        width: run_tool("man", *options, path, MANWIDTH=str(width))
        for width in range(60, 201, 7)
    }
    assert found == dict.fromkeys(found, "")


@pytest.mark.parametrize("page", PAGES)
def test_pages_refer_to_each_other(page: str) -> None:
    for other in PAGES:
        if other != page:
            name, _, section = other.rpartition(".")
            assert f".Xr {name} {section}" in part(page, "SEE ALSO")


@pytest.mark.parametrize("page", PAGES)
def test_references_have_a_section(page: str) -> None:
    text = source(page)
    sections = set(re.findall(r"^\.S[hs] (.*)$", text, flags=re.M))
    if page == DAEMON:  # it also refers to sections of (5)
        sections |= set(re.findall(r"^\.Ss (.*)$", source(FILES), flags=re.M))
    for name in re.findall(r"^\.Sx (.*?)(?: [.,;:])?$", text, flags=re.M):
        assert name in sections


# ngcp-task-agent.yml(5)


def flat(schema: Schema, before: str = "") -> Iterator[Tuple[str, Schema]]:
    for key, value in schema["properties"].items():
        yield before + key, value
        if "properties" in value:
            yield from flat(value, f"{before}{key}.")


def required(schema: Schema, before: str = "") -> Iterator[str]:
    yield from (before + key for key in schema.get("required", ()))


# For each schema, the section that describes it.
SCHEMAS: Dict[Tuple[str, ...], Schema] = {
    ("AGENT.YML",): settings.AGENT_SCHEMA,
    ("BACKENDS", "Keys of a redis backend"): RedisBackend.options_schema,
    ("TASKS", "Keys of every task"): settings.TASK_SCHEMA,
    ("TASKS", "backend_options of redis"): RedisBackend.task_options_schema,
    ("TASKS", "broker_options of command"): CommandBroker.options_schema,
    (
        "TASKS",
        "broker_options of agent",
    ): agent_broker.AgentBroker.options_schema,
    ("TASKS", "broker_options of systemd"): {
        **OPTIONS_SCHEMA,
        "properties": {
            **OPTIONS_SCHEMA["properties"],
            # The table of properties is shorter than a section would be.
            "properties": {"type": "object"},
        },
    },
}
KEYS = [
    pytest.param(where, key, schema, id=f"{where[-1]}: {key}")
    for where, whole in SCHEMAS.items()
    for key, schema in flat(whole)
]


def keys(*where: str) -> Dict[str, str]:
    """Return the keys that a section describes, and their descriptions."""
    text = part(FILES, *where)
    # The meaning of a key's values is in a separate list.
    return {
        head[3:]: body
        for head, body in items(_without_inner_lists(text)).items()
        if head.startswith("Ic ")
    }


def _without_inner_lists(text: str) -> str:
    depth = 0
    lines = []
    for line in text.splitlines(keepends=True):
        depth += line.startswith(".Bl ")
        if depth == 2 and line.startswith(".It "):
            line = line[4:]
        lines.append(line)
        depth -= line.startswith(".El")
    return "".join(lines)


def default(body: str) -> Tuple[bool, Any]:
    """Return whether a key has a default that is a value, and that value."""
    found = re.search(r"^Default:\n\.Ql (\S+)", body, flags=re.M)
    if not found:
        return False, None
    return True, yaml.safe_load(unescape(found.group(1)))


@pytest.mark.parametrize("where", SCHEMAS)
def test_the_page_has_the_keys_of_the_schema(where: Tuple[str, ...]) -> None:
    assert set(keys(*where)) == {key for key, _ in flat(SCHEMAS[where])}


@pytest.mark.parametrize("where", SCHEMAS)
def test_the_page_says_which_keys_are_required(where: Tuple[str, ...]) -> None:
    said = {k for k, body in keys(*where).items() if "Required." in body}
    assert said == set(required(SCHEMAS[where]))


@pytest.mark.parametrize(("where", "key", "schema"), KEYS)
def test_a_key_has_its_type_and_its_bounds(
    where: Tuple[str, ...], key: str, schema: Schema
) -> None:
    body = keys(*where)[key]
    text = plain(body)
    assert ("Required." in text) != ("Default:" in text)
    kinds = {
        "string": ("string", "A string"),
        "integer": ("whole number",),
        "number": ("A number",),
        "boolean": ("yes or no",),
        "array": ("A list",),
        "object": ("A mapping",),
    }
    title = schema.get("title", "")
    kind = schema.get("type")
    if "a size in bytes" in title:
        assert text.startswith("A size")
        return
    if isinstance(kind, str):
        assert any(word in text for word in kinds[kind]), text
    for bound in ("minimum", "maximum", "maxLength"):
        if bound in schema:
            assert re.search(rf"\b{schema[bound]}\b", text), bound
    for value in schema.get("enum", ()):
        assert f".Ql {value}" in body
    if schema.get("pattern") == "^/":
        assert "absolute path" in text


def test_sizes_have_their_least_values() -> None:
    for key, least in settings.LEAST_SIZES.items():
        assert f"at least {least} bytes" in plain(keys("AGENT.YML")[key])
    text = plain(part(FILES, "TASKS", "broker_options of command"))
    assert "A size, at least 0:" in text


def test_defaults_of_the_agent() -> None:
    usual = settings.parse_agent(Document(Path("agent.yml")))
    assert usual
    for key, body in keys("AGENT.YML").items():
        known, value = default(body)
        if not known:
            continue
        document: Dict[str, Any] = {}
        inner = document
        *parents, last = key.split(".")
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = value
        said = settings.parse_agent(Document(Path("agent.yml"), document))
        assert said == usual, key


def test_defaults_of_a_task(plugins: Any) -> None:
    base = {
        "name": "x",
        "backend": "redis",
        "backend_options": {"control_channel": "c"},
        "broker": "command",
        "broker_options": {"run": "true"},
    }
    path = Path("redis.yml")
    backend = settings.parse_backend(Document(path, {}), plugins)
    assert backend

    def read(value: Any) -> Any:
        document = Document(Path("x.yml"), value)
        found = settings.parse_task(document, plugins, {"redis": backend}, {})
        assert found
        return found

    usual = read(base)
    for key, body in keys("TASKS", "Keys of every task").items():
        known, value = default(body)
        if known and key not in base:
            assert read({**base, key: value}) == usual, key
        # A value that makes no difference would prove nothing.
        assert known or key in base or key in ("allow_src", "data_schema")


def test_defaults_of_a_command() -> None:
    usual = vars(CommandBroker({"run": "x"}))
    for key, body in keys("TASKS", "broker_options of command").items():
        known, value = default(body)
        if not known:
            assert key in ("run", "as_user")
            continue
        said = vars(CommandBroker({"run": "x", key: value}))
        del said["options"]
        assert said == {k: v for k, v in usual.items() if k in said}, key


def test_defaults_of_a_command_in_a_unit() -> None:
    usual = vars(TransientBroker({"run": "x"}))
    for key, body in keys("TASKS", "broker_options of systemd").items():
        known, value = default(body)
        if not known:
            assert key in ("run", "as_user", "unit", "verb")
            continue
        said = vars(TransientBroker({"run": "x", key: value}))
        del said["options"]
        assert said == {k: v for k, v in usual.items() if k in said}, key
    seconds = keys("TASKS", "broker_options of systemd")["properties"]
    assert f"{transient.KILL_AFTER:g} seconds if it is not" in plain(seconds)


def test_properties_of_units() -> None:
    body = part(FILES, "TASKS", "broker_options of systemd")
    names = re.findall(r"^\.It Sy (.*)$", body, flags=re.M)
    shown = {name for line in names for name in line.split(" , ")}
    assert shown == {*PROPERTIES_SCHEMA["properties"]}


def test_limits_of_log_stderr() -> None:
    text = plain(keys("TASKS", "broker_options of command")["log_stderr"])
    assert f"at most {stderr.LINES} lines a second" in text
    assert f"first {stderr.LINE_BYTES} bytes" in text


def test_defaults_of_redis() -> None:
    found = {}
    for key, body in keys("BACKENDS", "Keys of a redis backend").items():
        known, value = default(body)
        if known:
            found[key] = value
    address = {key: found[key] for key in ("host", "port")}
    assert dial.describe_server(address) == dial.describe_server({})
    assert found["ping_interval"] == redis_options.PING_INTERVAL
    assert found.pop("db") == 0
    assert found.pop("allow_replica") is False
    assert set(found) == {"host", "port", "ping_interval"}


@pytest.fixture
def plugins() -> Any:
    return installed()


def test_the_page_says_which_keys_exclude_each_other() -> None:
    text = keys("BACKENDS", "Keys of a redis backend")
    for rule in RedisBackend.options_schema["allOf"]:
        one, other = rule["not"]["required"]
        both = text[one] + text[other]
        assert "Must not be given together with" in both, rule
        assert f".Ic {one}" in both or f".Ic {other}" in both


def test_limits_of_files_and_times() -> None:
    form = plain(part(FILES, "DESCRIPTION"))
    assert f"of at most {permissions.LARGEST_FILE} bytes" in form
    assert f"more than {yaml_file.DEEPEST} levels" in form
    assert f"more than {yaml_file.MOST_VALUES} values" in form
    state = plain(keys("AGENT.YML")["node.state_command"])
    assert f"older than {node.STATE_VALID:g} second" in state
    assert f"After {node.STATE_TIMEOUT:g} seconds" in state
    assert node.LONGEST_PAUSE <= 1
    assert "at least every second" in state
    redis_text = plain(part(FILES, "BACKENDS"))
    assert f"within {redis_server.LONGEST_CONNECT:g} seconds" in redis_text
    assert f"had held for {reconnector.HELD:g} second," in redis_text
    waits = (
        f"from {backoff.SHORTEST_WAIT:g} to {backoff.LONGEST_WAIT:g} seconds"
    )
    assert waits in redis_text
    assert dial.NEXT_ADDRESS == 0.25
    assert "a quarter of a second apart" in redis_text
    assert f"within {publisher.TIMEOUT:g} seconds" in redis_text
    assert f"the newest {outbox.KEEP}," in redis_text
    assert f"{outbox.KEEP_BYTES >> 20} MiB at most" in redis_text
    assert f"for {outbox.KEEP_SECONDS:g} seconds" in redis_text
    assert f"more than {dial.LONGEST_PASSWORD} bytes" in redis_text
    assert f"more than {reply.AT_ONCE_BYTES} characters is sent" in redis_text
    assert f"{lane.LARGE_RATE >> 20} MiB a second" in redis_text
    tasks = plain(part(FILES, "TASKS"))
    assert f"may take {check_time.LONGEST:g} seconds of" in tasks
    assert f"{check_time.SHARE:.0%} of a processor core" in tasks
    assert f"more than {check_time.SHORT:g} seconds uses up" in tasks
    assert f"up {check_time.LONG_COSTS} times as much" in tasks
    assert f"SIGKILL {process.KILL_AFTER:g} seconds later" in tasks
    assert f"by {2 * process.CLOSE_WITHIN:g} seconds at most" in tasks
    assert f"waits {users.FIND_WITHIN:g} seconds for it when" in tasks
    assert f"and {users.ASK_WITHIN:g} seconds for a request" in tasks
    assert users.KEPT_FOR == 1
    assert "For a second, further requests use its answer" in tasks
    stop = keys("AGENT.YML")["stop_timeout"]
    more = 2 * runtime.END + (base.LEAVING + 1) * runtime.FLUSH
    assert f"{more:g} seconds more" in plain(stop)


def test_the_path_of_programs() -> None:
    body = keys("TASKS", "broker_options of command")["run"]
    folders = re.findall(r"^\.Pa (\S+)", body, flags=re.M)
    assert ":".join(folders) == users.PATH


def example_files(text: str) -> Dict[str, str]:
    """Return the files in a section: their paths and their contents."""
    found = re.findall(
        r"^\.Pa (\S+\.yml)\n\.Bd -literal.*\n((?s:.*?))^\.Ed",
        text,
        flags=re.M,
    )
    return {path: unescape(content) for path, content in found}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a configuration folder that only its owner can change."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(content)
        path.chmod(0o644)
    return folder


def test_examples_have_no_fault(tmp_path: Path) -> None:
    files = example_files(part(FILES, "EXAMPLES"))
    assert len(files) >= 7
    config = Loader(write(tmp_path, files)).load()
    assert config.faults == ()
    read = [t.path for t in config.tasks]
    read += [b.path for b in config.backends.values()]
    assert len(read) == len(files) - 1  # and agent.yml
    assert config.agent.node.name == "prx01a"


@pytest.mark.parametrize(
    ("data", "is_sound"),
    [
        ({"extra_args": ["42"]}, True),
        ({"extra_args": "42"}, True),
        (None, False),
        ({}, False),
        ({"extra_args": None}, False),
        ({"extra_args": []}, False),
        ({"extra_args": ["1", "2"]}, False),
        ({"extra_args": "1 2"}, False),
        ({"extra_args": " "}, False),
        ({"extra_args": ["x"]}, False),
        ({"extra_args": [42]}, False),
        ({"extra_args": ["42"], "more": 1}, False),
    ],
)
def test_the_example_takes_exactly_one_argument(
    data: Any, is_sound: bool, tmp_path: Path
) -> None:
    text = part(FILES, "EXAMPLES")
    assert """--data '{"extra_args": ["42"]}'""" in unescape(text)
    config = Loader(write(tmp_path, example_files(text))).load()
    (task,) = (t for t in config.tasks if t.name == "subscriber_sync")
    broker = CommandBroker(task.broker_options)
    request = fakes.request(data)
    rejected = (
        contextlib.nullcontext()
        if is_sound
        else pytest.raises(errors.Rejected)
    )
    with rejected:
        assert task.data_schema
        validate.check_data(validate.validator(task.data_schema), data)
        broker.prepare(request)


def test_the_call_of_the_readme_is_for_the_task_of_the_readme(
    tmp_path: Path,
) -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```yaml\n((?s:.*?))^```", readme, flags=re.M)
    names = [
        *("backends/redis.yml", "tasks/a.yml", "tasks/b.yml", "tasks/c.yml"),
        *("tasks/d.yml", "agent.yml"),
    ]
    config = Loader(write(tmp_path, dict(zip(names, blocks)))).load()
    assert config.faults == ()
    call = re.search(
        r"ngcp-invoke-task (\S+) (?:\\\n\s+)?--data '(.*)'", readme, flags=re.M
    )
    assert call
    (wanted,) = (task for task in config.tasks if task.name == call[1])
    src = find(call[1], config_dir=tmp_path).src
    assert any(Pattern(p).matches(src) for p in wanted.allow_src or ())
    assert wanted.data_schema
    validate.check_data(
        validate.validator(wanted.data_schema), json.loads(call[2])
    )


def test_the_faulty_example_has_the_shown_faults(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = part(FILES, "FAULTS")
    files = example_files(text)
    assert list(files) == ["tasks/faulty.yml"]
    shown = literals(text)[1]
    folder = write(tmp_path, {**files, "backends/redis.yml": ""})
    assert cli.main(["--check", "--config-dir", str(folder)]) == 78
    assert capfd.readouterr().out.replace(f"{folder}/", "") == shown


# ngcp-task-agent(8)


def test_options() -> None:
    known = set()
    for action in cli.parser()._actions:
        names = [
            f"Fl Fl {n[2:]}" for n in action.option_strings if n[1] == "-"
        ]
        names += [f"Fl {n[1:]}" for n in action.option_strings if n[1] != "-"]
        head = " , ".join(sorted(names, key=len))
        known.add(f"{head} Ar {action.metavar}" if action.metavar else head)
    described = items(part(DAEMON, "OPTIONS"))
    assert {head.replace(" Op", "") for head in described} == known
    synopsis = plain(part(DAEMON, "SYNOPSIS"))
    for head in known:
        assert head.rpartition("Fl ")[2].split()[0] in synopsis


def test_values_of_options() -> None:
    described = items(part(DAEMON, "OPTIONS"))
    level = described["Fl Fl log-level Ar LEVEL"]
    for name in cli.LEVELS:
        assert f".Ql {name}" in level
    usual = cli.parser().parse_args([])
    assert default(level) == (True, usual.log_level)
    folder = described["Fl Fl config-dir Ar DIR"]
    assert f"Default:\n.Pa {usual.config_dir} .\n" in folder
    text = plain(described["Fl Fl reload"])
    assert f"for {interface.RELOAD_WITHIN:g} seconds at most" in text


def test_kinds_of_journal_records() -> None:
    table = part(DAEMON, "JOURNAL").partition("\n.Ss ")[0]
    found = re.findall(
        r"^\.It Sy (\w+) , (\w+)\n\.Ql (\w+)\n\.br\n([A-Z])", table, flags=re.M
    )
    shown = {(name, level, number) for name, level, number, _ in found}
    assert len(shown) == len(re.findall(r"^\.It Sy", table, flags=re.M))
    assert shown == {
        (name, logging.getLevelName(kind.level).lower(), kind.message_id)
        for name, kind in vars(journal).items()
        if isinstance(kind, journal.Kind)
    }


def test_journal_fields() -> None:
    shown = set(re.findall(r"^\.It Li (NGCP_\w+)$", source(DAEMON), re.M))
    used = set()
    for file in (ROOT / "ngcp_task_agent").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            if name in ("journal.record", "record"):
                used |= {
                    f"NGCP_{word.arg.upper()}"
                    for word in call.keywords
                    if word.arg and word.arg != "bug"
                }
    # The handlers add the traceback.
    assert shown == used | {"NGCP_TRACEBACK"}
    text = plain(part(DAEMON, "JOURNAL"))
    assert f"at most {LONGEST} bytes" in text
    figures = f"{journal.MOST} records are logged within {journal.WINDOW:g} s"
    assert figures in text
    bounded = {
        name
        for name, kind in vars(journal).items()
        if isinstance(kind, journal.Kind) and kind.flood
    }
    what = text.partition("So of each of the kinds ")[2].partition(", at")[0]
    assert set(re.findall("[A-Z_]{2,}", what)) == bounded


def test_journalctl_examples_use_existing_fields() -> None:
    numbers = {
        kind.message_id
        for kind in vars(journal).values()
        if isinstance(kind, journal.Kind)
    }
    fields = set(re.findall(r"^\.It Li (NGCP_\w+)$", source(DAEMON), re.M))
    examples = "".join(literals(source(DAEMON)))
    used = re.findall(r"MESSAGE_ID=(\w+)", examples)
    assert used
    assert set(used) <= numbers
    assert set(re.findall(r"(NGCP_\w+)=", examples)) <= fields


EXAMPLES = {
    DAEMON: source(DAEMON),
    "ngcp-invoke-task.1": source("ngcp-invoke-task.1"),
    "README.md": (ROOT / "README.md").read_text(),
    "catalog": (ROOT / "debian/ngcp-task-agent.catalog").read_text(),
}


@pytest.mark.parametrize("where", EXAMPLES)
def test_journalctl_examples_ask_for_what_users_cannot_forge(
    where: str,
) -> None:
    text = re.sub(r"\\\n +", "", unescape(EXAMPLES[where]))
    commands = re.findall(r"^ *journalctl (.*)$", text, flags=re.M)
    assert commands
    for words in map(str.split, commands):
        assert "_UID=0" in words
        if "-u" not in words:
            assert f"_SYSTEMD_UNIT={UNIT}.service" in words
            assert f"_COMM={UNIT}" in words


def test_exit_statuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = write(tmp_path, {"backends/redis.yml": ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    check = ["--config-dir", str(folder), "--check"]
    found = {cli.main(check), cli.main(["--reload"])}
    found.add(cli.main(["--no-such-option"]))

    async def denied() -> None:
        raise errors.NotAllowed("no")

    with monkeypatch.context() as patched:
        patched.setattr(reload, "ask", denied)
        found.add(cli.main(["--reload"]))
    (folder / "backends/redis.yml").unlink()
    found.add(cli.main(check))
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        found.add(cli.main(["--version"]))
    assert found == {0, 1, 2, cli.EX_IOERR, cli.EX_NOPERM, agent.EX_CONFIG}
    capfd.readouterr()
    assert set(items(part(DAEMON, "EXIT STATUS"))) == set(map(str, found))


def test_the_daemon_ends_with_78_without_a_backend(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "sbin/ngcp-task-agent"),
            *("--config-dir", str(tmp_path)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == agent.EX_CONFIG, done.stderr


def test_signals() -> None:
    shown = " ".join(items(part(DAEMON, "SIGNALS")))
    handled = set(
        re.findall(r"signal\.(SIG[A-Z]+)\b", inspect.getsource(agent))
    )
    assert set(re.findall(r"SIG\w+", shown)) == handled | {"SIGABRT"}


def test_environment_of_the_daemon() -> None:
    shown = " ".join(items(part(DAEMON, "ENVIRONMENT")))
    read = set()
    package = ROOT / "ngcp_task_agent"
    others = ("client", "ctl", "display.py")
    for file in package.rglob("*.py"):
        if file.relative_to(package).parts[0] in others:
            continue
        read |= set(re.findall(r'environ\.get\(\s*"(\w+)"', file.read_text()))
    # sdnotify reads NOTIFY_SOCKET.
    assert set(re.findall(r"[A-Z_]{4,}", shown)) == read | {"NOTIFY_SOCKET"}


def test_members_on_the_bus() -> None:
    text = part(DAEMON, "MANAGEMENT")
    shown = [re.split(r"[ (]", head[3:])[0] for head in items(text)]
    own = interface.XML.partition(f'<interface name="{interface.NAME}">')[2]
    members = re.findall(r'<(?:method|property) name="(\w+)"', own)
    rights = [interface.RELOAD, interface.INSPECT, interface.CANCEL]
    assert shown == [*members, *rights]
    for name in (interface.NAME, interface.PATH):
        assert f".Ql {name}\n" in text
    words = plain(text)
    assert f"at most {callers.AT_ONCE} calls at once" in words
    assert f"not know yet share {callers.UNKNOWN_AT_ONCE}." in words
    assert f"more than {frames.LONGEST >> 10} KiB get no reply" in words
    for error in (interface.FAULTS, interface.FAILED, interface.NO_SUCH_JOB):
        assert error.rpartition(".")[2] in words
    for name in COUNTED:
        assert name in words


def test_metrics() -> None:
    text = part(DAEMON, "METRICS")
    shown = {head[3:] for head in items(text)}
    nothing = dict.fromkeys(("received", *COUNTED), 0)
    written = prometheus.text(
        metrics.Snapshot(
            *(True, "1.0", "sp1", nothing),
            *([("ping", nothing)], [("ping", [0] * 16, 0.0)]),
            *(0, 0, [("redis", True)]),
        )
    ).decode()
    names = set(re.findall(r"^# TYPE (\S+)", written, re.M))
    assert shown == names
    for key, value in re.findall(r'(\w+)="(\w+)"', written):
        assert key in ("le", "version", "node", "task", "backend") or (
            f".Ql {value}" in text
        )
    words = plain(text)
    assert f"every {metrics.INTERVAL:g} seconds" in words
    (_, alerts) = literals(text)
    assert alerts.splitlines()[0].split()[0] in names


def test_the_largest_message_of_a_server() -> None:
    load = plain(part(DAEMON, "SECURITY", "Load"))
    assert f"more than {replies.MAX_REPLY >> 20} MiB" in load


def test_times_of_a_stop() -> None:
    text = plain(part(DAEMON, "STOP"))
    usual = settings.AgentConfig()
    assert f"({usual.stop_timeout:g} seconds by default)" in text
    assert f"SIGKILL {process.KILL_AFTER:g} seconds later" in text
    assert f"up to {runtime.FLUSH:g} seconds" in text
    assert f"up to {base.LEAVING * runtime.FLUSH:g} as long" in text


# ngcp-task-agent-protocol(7)


def test_fields_of_a_request() -> None:
    described = items(part(PROTOCOL, "REQUEST"))
    longest = dict(messages.LONGEST)
    optional = ["options.progress_channel"]
    for name in ("options.feedback_channel", *optional):
        longest[name] = redis_options.LONGEST_CHANNEL
    fields = [*messages.LONGEST, "options", "options.feedback_channel"]
    optional += ["options.expires"]
    assert [head[3:] for head in described] == [*fields, *optional, "data"]
    for name in (*fields, *optional):
        text = plain(described[f"Ic {name}"])
        assert text.startswith("Required:") is (name in fields), name
        if name in longest:
            assert f"{longest[name]} characters" in text, name


def test_fields_of_an_answer() -> None:
    origin = messages.Origin("u", "t", "s")
    response = messages.Response(origin, "n", "done", data="", unused=True)
    (message,) = response.encode(10_000)
    heads = items(part(PROTOCOL, "ANSWERS"))
    shown = [
        name
        for head in heads
        if head.startswith("Ic ")
        for name in head[3:].split(" , ")
    ]
    assert shown == list(json.loads(message))
    reason = plain(heads["Ic reason"])
    assert f"at most {messages.MAX_REASON} characters" in reason
    statuses = {head[3:] for head in heads if head.startswith("Li ")}
    assert statuses == {"accepted", "rejected", "done", "error"}


def test_fields_of_live_output() -> None:
    text = part(PROTOCOL, "LIVE OUTPUT")
    shown = [name for head in items(text) for name in head[3:].split(" , ")]
    origin = messages.Origin("u", "t", "s")
    made = json.loads(messages.encode_live(origin, "n", "stdout", 1, b"", 1))
    assert sorted(shown) == sorted(made)
    words = plain(text)
    assert f"at most {live_output.PER_SECOND} messages a second" in words
    assert words.count(f" {live_output.PIECE} bytes") == 2
    memory = plain(keys("TASKS", "Keys of every task")["live_output"])
    assert f"up to {2 * live_output.KEPT >> 10} KiB of memory" in memory
    rate = plain(part(FILES, "BACKENDS", "Keys of a redis backend"))
    assert f"at most {live_lane.LIVE_RATE >> 20} MiB a second of all" in rate


def test_limits_of_the_protocol() -> None:
    usual = settings.AgentConfig()
    rules = plain(part(PROTOCOL, "JSON"))
    assert f"bytes at most, {usual.max_request >> 20} MiB by default" in rules
    assert f"at most {messages.MAX_DEPTH} levels" in rules
    assert f"at most {messages.MAX_NESTED} arrays and objects" in rules
    answers = plain(part(PROTOCOL, "ANSWERS"))
    assert f"bytes, {usual.max_response >> 20} MiB by default" in answers
    assert f"more than {outbox.KEEP_SECONDS:g} seconds" in answers
    checks = plain(part(PROTOCOL, "ORDER OF CHECKS"))
    assert f"the last {dispatch.REMEMBER:g} seconds" in checks
    assert f"the last {dispatch.REMEMBER_MOST} requests" in checks
    assert f"the first {messages.START} bytes" in checks
    assert f"at most {destination.QUOTED} characters" in checks
    assert f"at most {validate.QUOTED_RULE} characters" in checks
    assert f"at most {reply.DETAIL} characters" in checks
    assert f"at most {reply.LOGGED_DETAIL} bytes" in plain(source(DAEMON))
    assert f"more than {agent_broker.LONGEST} bytes, which" in checks
    data = plain(part(PROTOCOL, "DATA"))
    assert data.count(f"more than {program.IN_ENVIRONMENT} ") == 1


def test_order_of_the_fields_that_are_checked() -> None:
    fields = plain(part(PROTOCOL, "ORDER OF CHECKS")).partition("are there")[0]
    at = [fields.rindex(name) for name in (*messages.LONGEST, "options")]
    assert at == sorted(at)


# Calls of these give a reason to a client or the administrator.
TELLS = {
    "Rejected": 0,
    "Busy": 0,
    "Duplicate": 0,
    "NoReplyAddress": 0,
    "CannotStart": 0,
    "Malformed": 0,
    "DestinationError": 0,
    "Result": "error",
    "_fault": 1,
    "fault": 0,
}
# Functions that return reasons, and the text that their callers prepend.
RETURNS = {
    "_error": "",
    "error": "",
    "_flaw": "",
    "_do": "",
    "why": "",
    "_why": "",
    "bug": "",
    "_too_long": "",
}
# Functions that only pass on reasons of others.
PASSED_ON = {r"dst:\ '.+?'\ .+?"}


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def reasons(module: ModuleType) -> Iterator[str]:
    """Return regular expressions for all reasons in a module's source."""
    tree = ast.parse(inspect.getsource(module))
    for found in ast.walk(tree):
        value: Optional[ast.expr] = None
        if isinstance(found, ast.Call):
            name = ast.unparse(found.func)
            where = TELLS.get(name)
            if isinstance(where, int) and len(found.args) > where:
                value = found.args[where]
            for word in found.keywords:
                if word.arg == where:
                    value = word.value
        elif isinstance(found, _FUNCTIONS) and found.name in RETURNS:
            for inner in ast.walk(found):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    for text in _pattern(module, inner.value):
                        yield re.escape(RETURNS[found.name]) + text
            continue
        elif isinstance(found, ast.Assign):
            if ast.unparse(found.targets[0]) == "nowhere":
                value = found.value
        if value is not None:
            yield from _pattern(module, value)


def _pattern(module: ModuleType, value: ast.expr) -> Iterator[str]:
    """Return an expression for a text, with wildcards for its values."""
    if isinstance(value, ast.Name):
        text = getattr(module, value.id, None)
        if isinstance(text, str):
            yield re.escape(text)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        if value.value:
            yield re.escape(value.value)
    elif isinstance(value, ast.JoinedStr):
        pieces = [
            re.escape(str(piece.value))
            if isinstance(piece, ast.Constant)
            else ".+?"
            for piece in value.values
        ]
        if any(isinstance(piece, ast.Constant) for piece in value.values):
            yield "".join(pieces)


def telling_modules() -> Iterator[ModuleType]:
    """Return all modules that can give a reason to a client."""
    package = ROOT / "ngcp_task_agent"
    for file in sorted(package.rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        # The first is a client, the second reports only to the administrator.
        if "client" in name or name.endswith((".redis.link", "__")):
            continue
        yield importlib.import_module(name)


REASONS = sorted(
    {
        (module.__name__, text)
        for module in telling_modules()
        for text in reasons(module)
        if text not in PASSED_ON
    }
    | {
        (unit.__name__, re.escape(text))
        for text in (*unit.REFUSALS.values(), *unit.RESULTS.values())
    }
)


def shown_reasons() -> List[str]:
    text = part(PROTOCOL, "ORDER OF CHECKS")
    return re.findall(r'^\.It Qq "(.*)"$', unescape(text), flags=re.M)


def test_reasons_are_found() -> None:
    modules = {name for name, _ in REASONS}
    for module in (messages, destination, dispatch, backend, task, program):
        assert module.__name__ in modules
    assert len(REASONS) > 40


@pytest.mark.parametrize(("module", "reason"), REASONS)
def test_a_reason_is_shown(module: str, reason: str) -> None:
    if module == destination.__name__ and not reason.startswith("dst"):
        reason = f"dst: '.+?' {reason}"
    if reason.startswith(".+?\\ must\\ not\\ hold"):
        for field in ("task", "src", "dst"):
            assert any(
                re.fullmatch(reason, text) and text.startswith(field)
                for text in shown_reasons()
            )
    assert any(re.fullmatch(reason, text) for text in shown_reasons()), reason


@pytest.mark.parametrize("text", shown_reasons())
def test_each_shown_text_is_a_reason(text: str) -> None:
    assert any(
        re.fullmatch(f"(?:dst: '.+?' )?{reason}", text)
        for _, reason in REASONS
    )


def test_environment_of_commands() -> None:
    shown = " ".join(items(part(PROTOCOL, "DATA", "Environment of commands")))
    made = set(users.own_user().environment())
    made |= set(re.findall(r"\bNGCP_TASK_\w+", inspect.getsource(program)))
    assert set(re.findall(r"[A-Z_]{4,}", shown)) == made
    text = part(PROTOCOL, "DATA", "Environment of commands")
    assert f"\n{users.PATH}\n" in text
    assert f".Ql {users.own_user().environment()['LANG']}\n" in text


def a_node(name: str, **facts: str) -> node.Identity:
    return node.Identity(
        name,
        frozenset({name}),
        {key: tuple(value.split()) for key, value in facts.items()},
    )


# For each example of a destination, nodes that match and nodes that do not.
PROXY = a_node("prx01a", state="active", status="online", role="proxy")
SPARE = a_node("prx01b", state="standby", status="offline", role="proxy")
BALANCER = a_node("lb01a", state="active", status="online", role="lb")
BASE = a_node("db01a", state="active", status="online", role="db")
FAR = a_node(
    "db01b", state="standby", status="online", role="db", site="vienna"
)
NODES = (PROXY, SPARE, BALANCER, BASE, FAR)
MEANT: Dict[str, Tuple[node.Identity, ...]] = {
    "local": (PROXY,),
    "prx01a": (PROXY,),
    "prx*": (PROXY, SPARE),
    "*": NODES,
    "*|state=active": (PROXY, BALANCER, BASE),
    "*|status=online": (PROXY, BALANCER, BASE, FAR),
    "*|state=active;role=proxy": (PROXY,),
    "*|state=active;role=proxy+lb": (PROXY, BALANCER),
    "*|site=vienna": (FAR,),
    "prx01a,lb*,db01?|state=active": (PROXY, BALANCER, BASE),
}


def test_destinations_match_the_shown_nodes() -> None:
    heads = items(part(PROTOCOL, "DESTINATIONS"))
    shown = [head[3:] for head in heads if head.startswith("Li ")]
    assert shown == list(MEANT)
    for dst, nodes in MEANT.items():
        parsed = destination.parse(dst)
        got = tuple(n for n in NODES if parsed.matches(n, "prx01a"))
        assert got == nodes, dst


def test_no_heading_loses_its_first_word() -> None:
    # These words are macros of mdoc, which does not print them.
    for file in (ROOT / "man").iterdir():
        lost = r"^\.S[hs] (?:An|At|In|It|No)\b.*"
        assert not re.findall(lost, file.read_text(), flags=re.M), file


def test_the_example_is_a_request() -> None:
    text = literals(part(PROTOCOL, "EXAMPLES", "A request"))[0]
    request = messages.parse_request(text.encode(), 1 << 20)
    assert request.task == "ping_127_0_0_1"
    by_hand = literals(part(PROTOCOL, "EXAMPLES", "By hand"))[1]
    body = by_hand[by_hand.index("{") : by_hand.rindex("}") + 1]
    body = re.sub(r"'\$\(.*?\)'", request.uuid, body)
    parsed = messages.parse_request(body.encode(), 1 << 20)
    assert parsed.task == request.task
    assert parsed.options == request.options


def test_the_example_in_python_compiles() -> None:
    text = literals(part(PROTOCOL, "EXAMPLES", "In Python"))[0]
    assert len(text.splitlines()) == 13
    compile(text, "example", "exec")


# ngcp-task-agentctl(1)


def commands() -> Mapping[str, argparse.ArgumentParser]:
    (found,) = (
        action.choices
        for action in ctl_arguments.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(found)


def test_commands_and_options() -> None:
    described = items(part(CTL, "DESCRIPTION"))
    synopsis = part(CTL, "SYNOPSIS")
    known = {"Fl Fl version"}
    for name, parser in commands().items():
        assert [h for h in described if re.match(rf"Cm {name}\b", h)]
        assert re.search(rf"^\.Cm (?:.* )?{name}\b", synopsis, re.M)
        for action in parser._actions:
            if action.option_strings:
                names = [
                    "Fl " * word.count("-", 0, 2) + word.lstrip("-")
                    for word in action.option_strings
                ]
                ending = (
                    f" Ar {action.metavar.lower()}" if action.metavar else ""
                )
                known.add(" , ".join(names) + ending)
    assert {h for h in described if h.startswith("Fl")} == known
    follow = plain(described["Fl f , Fl Fl follow"])
    assert f"the last {ctl_log.SHOWN_BEFORE} records" in follow


def test_decisions_in_the_log() -> None:
    shown = {head[3:] for head in items(part(CTL, "LOG")) if head[:2] == "Ql"}
    assert shown == set(records.STATUSES)


def test_times_in_the_log() -> None:
    for head in items(part(CTL, "LOG", "Times")):
        for time in head[3:].split(" , "):
            since.parse(time, 1795780800.0)


def test_json_of_the_log() -> None:
    described = part(CTL, "JSON").partition(".It Cm log\n")[2]
    shown = re.findall(r"^\.Li (\w+)", described, re.M)
    assert shown == list(records.Record(0.0, "done").as_json())


def test_exit_statuses_of_agentctl() -> None:
    shown = set(items(part(CTL, "EXIT STATUS")))
    known = {v for v in vars(failure).values() if isinstance(v, int)}
    known -= {failure.BY_SIGNAL}
    assert shown == {"0", "141", *map(str, known)}


def test_example_of_the_log() -> None:
    (shown,) = literals(part(CTL, "LOG"))
    shared = {"task": "backup", "src": "sp1"}
    shared["uuid"] = "cb88ac76-f348-4614-866f-43877b893e7e"
    begin = datetime.datetime(2026, 11, 27, 10, 0, 1, 250_000).timestamp()
    reason = "the command ran past its timeout of 300 s"
    written: List[str] = []
    made = stories.Stories(written.append)
    for after, status, more in (
        (0.0, "accepted", {}),
        (1.754, "stderr", {"stderr": "disk is nearly full"}),
        (300.0, "error", {"seconds": 300.0, "reason": reason}),
    ):
        made.add(records.Record(begin + after, status, **shared, **more))
    made.end()
    assert "".join(written) == shown
