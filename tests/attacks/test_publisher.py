"""Attacks by whoever may publish: requests that no client would send."""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from ngcp_task_agent.client import Client as Invoker
from ngcp_task_agent.client import Patience, find
from tests.attacks.invoking import measured
from tests.attacks.load import (
    PATIENCE,
    REGEX_BOMB,
    REGEX_SCHEMA,
    UNIQUE_BOMB,
    UNIQUE_SCHEMA,
    WIDE,
    Pings,
    endings,
    flood,
    memory,
    wide,
)
from tests.crowd import answer
from tests.integration.conftest import ConfigFolder
from tests.parts import (
    CHANNEL,
    WITHIN,
    Client,
    Daemon,
    RedisServer,
    is_running,
    statuses,
    wait_for,
)

Attacked = Callable[..., Daemon]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run commands as another user"
)

# Writes its command line and its environment.
SHOW = "cat /proc/$$/cmdline; printf '\\001'; cat /proc/$$/environ"


def shown(data: str) -> Tuple[List[str], Dict[str, str]]:
    """Return the extra words and the environment that SHOW has written."""
    line, _, environment = data.partition("\1")
    entries = [entry for entry in environment.split("\0") if entry]
    return (
        line.split("\0")[4:-1],
        dict(entry.split("=", 1) for entry in entries),
    )


# Of a command line


SHELL = [
    "$(touch {})",
    "`touch {}`",
    ";touch {};",
    "|touch {}",
    "&&touch {}",
    "\ntouch {}\n",
    "';touch {};'",
    '";touch {};"',
    "() {{ :; }}; touch {}",
    ">{}",
    "${{IFS}}touch${{IFS}}{}",
    "%s%n{{0}}{{0.__class__}} {}",
    "* ~ $HOME \\ {}",
]


@pytest.mark.parametrize("field", ["src", "dst", "data", "extra_args"])
def test_a_shell_never_sees_what_a_request_says(
    field: str,
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    folder: Path,
) -> None:
    config.shell("show", SHOW, broker_extra_args=True)
    attacked()
    trap = folder / "trap"
    for shell in SHELL:
        text = shell.format(trap)
        values: Dict[str, Any] = {
            "src": {"src": text},
            "dst": {"dst": "sp1," + re.sub("[;|,\\[]", "", text)},
            "data": {"data": {"x": text}},
            "extra_args": {"data": {"extra_args": [text]}},
        }[field]
        ending = client.ask("show", **values)[-1]
        assert ending["status"] == "done", ending
        words, environment = shown(ending["data"])
        if field == "extra_args":
            assert words == [text]
        elif field == "data":
            assert json.loads(environment["NGCP_TASK_DATA"]) == {"x": text}
        else:
            assert environment[f"NGCP_TASK_{field.upper()}"] == values[field]
    assert not trap.exists()


def test_no_name_leads_out_of_the_folder_of_tasks(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    attacked()
    trap = folder / "trap"
    names = ["../tasks/ping", "ping.yml", "/bin/sh", "ping\n", " ping", "*"]
    names += ["PING", "p[i]ng", "__class__", f"$(touch {trap})"[:128]]
    for name in names:
        (rejected,) = client.ask(name)
        assert rejected["status"] == "rejected", name
        assert rejected["reason"].startswith("unknown task"), name
    assert not trap.exists()


@pytest.mark.parametrize(
    "extra",
    [
        "--help",
        "fine -x",
        "fine\u00a0-x",
        "fine\u2028--x",
        "fine\x1c-x",
        "fin\u00e9",
        "\uff46ine",
        ["fine", ""],
        ["fine\n"],
        ["fine\r"],
        ["fine\x00"],
        ["\u200bfine"],
    ],
    ids=ascii,
)
def test_an_extra_word_must_match_in_full(
    extra: Any, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell("show", SHOW, broker_extra_args=["[a-z]+"])
    attacked()
    (rejected,) = client.ask("show", data={"extra_args": extra})
    assert rejected["status"] == "rejected"
    assert rejected["reason"].startswith("extra_args: word ")


@needs_root
def test_an_extra_word_is_no_option_of_what_changes_the_user(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell(
        "show",
        'id -u; id -u "$@" 2>&1; exit 0',
        broker_extra_args=True,
        broker_as_user="daemon",
    )
    attacked()
    extra = ["--reuid=0", "--regid=0", "--clear-groups", "--"]
    ending = client.ask("show", data={"extra_args": extra})[-1]
    assert ending["data"].startswith("1\n"), ending
    assert "--reuid=0" in ending["data"]


@pytest.mark.parametrize("field", ["task", "src", "dst", "uuid"])
@pytest.mark.parametrize("bad", ["\0", "\ud800"], ids=ascii)
def test_what_no_command_could_be_given_is_rejected(
    bad: str,
    field: str,
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
) -> None:
    attacked()
    value = client.request("ping")[field]
    (rejected,) = client.ask("ping", **{field: f"{value}{bad}"})
    assert rejected["status"] == "rejected"
    assert field in rejected["reason"]


def test_no_field_adds_a_variable_to_the_environment(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell("show", SHOW)
    attacked()
    _, usual = shown(client.ask("show", data={})[-1]["data"])
    src = "x\nLD_PRELOAD=/evil.so\nPATH=/evil"
    data = {"PATH": "/evil", "LD_PRELOAD": "/evil.so", "=": "", "\0A=b": "\0"}
    ending = client.ask("show", src=src, dst="sp1,\nBASH_ENV=x", data=data)[-1]
    _, environment = shown(ending["data"])
    assert environment.keys() == usual.keys()
    for name in ("PATH", "HOME", "SHELL", "USER"):
        assert environment[name] == usual[name]
    assert environment["NGCP_TASK_SRC"] == src
    assert environment["NGCP_TASK_DST"] == "sp1,\nBASH_ENV=x"
    assert json.loads(environment["NGCP_TASK_DATA"]) == data


def test_large_data_is_given_to_a_command_that_reads_none_of_it(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell("deaf", SHOW, broker_stdin="data", max_queued=100)
    daemon = attacked(log_level="info")
    sent = flood(
        client, (client.request("deaf", data="x" * 900_000) for _ in range(40))
    )
    for ending in endings(client, sent):
        assert ending["status"] in ("done", "rejected"), ending
        if ending["status"] == "done":
            assert "NGCP_TASK_DATA" not in shown(ending["data"])[1]
    assert memory(daemon) < 300


def test_a_source_that_is_not_allowed_finds_no_way_around(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.task("web", "true", allow_src=["web??", "[d]b01"])
    attacked()
    for src in ("*", "web*", "web", "web01\n", "xweb01", "web011", "[d]b01"):
        (rejected,) = client.ask("web", src=src)
        assert rejected["reason"].startswith("allow_src: "), src
    assert statuses(client.ask("web", src="web01")) == ["accepted", "done"]


# Of messages


def spoilt(text: str) -> Callable[[str], bytes]:
    """Add a field to the message, of this text."""
    return lambda message: f'{message[:-1]},"x":{text}}}'.encode()


SPOILT = [
    pytest.param(spoilt("Infinity"), id="infinity"),
    pytest.param(spoilt("1e999"), id="1e999"),
    pytest.param(spoilt("1" * 5000), id="long-number"),
    pytest.param(spoilt("0x10"), id="hexadecimal"),
    pytest.param(spoilt("01"), id="octal"),
    pytest.param(spoilt("'x'"), id="apostrophes"),
    pytest.param(spoilt('"\n"'), id="newline-in-a-string"),
    pytest.param(spoilt('"\\x"'), id="wrong-escape"),
    pytest.param(spoilt("1,"), id="comma"),
    pytest.param(spoilt("{}//"), id="comment"),
    pytest.param(spoilt("[" * 101 + "]" * 101), id="deep-arrays"),
    pytest.param(spoilt('{"":' * 101 + "1" + "}" * 101), id="deep-objects"),
    pytest.param(spoilt("[" + "[]," * 50_000 + "1]"), id="wide-arrays"),
    pytest.param(spoilt("[" + "{}," * 50_000 + "1]"), id="wide-objects"),
    pytest.param(lambda m: b"\xef\xbb\xbf" + m.encode(), id="mark"),
    pytest.param(
        lambda m: m[:-1].encode() + b',"x":"\xc0\xaf"}', id="overlong"
    ),
    pytest.param(
        lambda m: m[:-1].encode() + b',"x":"\xed\xa0\x80"}', id="surrogate"
    ),
    pytest.param(lambda m: f"{m} {m}".encode(), id="two"),
    pytest.param(lambda m: f"[{m}]".encode(), id="array"),
    pytest.param(lambda m: m.encode("utf-16"), id="utf-16"),
    pytest.param(lambda m: m.encode("utf-32-le"), id="utf-32"),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_message_that_is_not_plain_json_runs_nothing(
    spoil: Callable[[str], bytes],
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    folder: Path,
) -> None:
    config.shell("trap", f"touch {folder}/trap")
    attacked()
    client.publish(spoil(json.dumps(client.request("trap"))))
    ping = client.send("ping")["uuid"]
    endings(client, [ping])
    spoilt = [r for r in client.responses if r["ref"] != ping]
    assert statuses(spoilt) in ([], ["rejected"])
    assert not (folder / "trap").exists()


INNER = [
    pytest.param('{"x": NaN}', id="nan"),
    pytest.param('{"x": -Infinity}', id="infinity"),
    pytest.param('{"x": 1e999}', id="1e999"),
    pytest.param('{"x": ' + "1" * 5000 + "}", id="long-number"),
    pytest.param('{"x": ' + "[" * 101 + "]" * 101 + "}", id="deep"),
    pytest.param('{"x": [' + "[]," * 50_000 + "1]}", id="wide"),
    pytest.param('{"x": 1', id="cut-off"),
    pytest.param('{"x": 1} {"x": 1}', id="two"),
    pytest.param('{"x": \ufeff1}', id="mark"),
]


@pytest.mark.parametrize("inner", INNER)
def test_json_in_a_string_obeys_the_rules_of_requests(
    inner: str, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell("show", SHOW, broker_extra_args=True)
    attacked()
    assert statuses(client.ask("show", data=inner)) == ["rejected"]


def test_of_equal_keys_all_checks_and_the_command_see_the_last(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell(
        "show",
        SHOW,
        broker_extra_args=["fine"],
        data_schema={"properties": {"n": {"const": "fine"}}},
    )
    attacked()
    for first, last in (("bad", "fine"), ("fine", "bad")):
        for inner in (
            f'{{"extra_args": "{first}", "extra_args": "{last}"}}',
            f'{{"n": "{first}", "n": "{last}"}}',
        ):
            for data in (json.dumps(inner), inner):
                text = json.dumps(client.request("show", data="DATA"))
                client.publish(text.replace('"DATA"', data))
                ending = client.ending()
                if last == "bad":
                    assert ending["status"] == "rejected"
                    continue
                words, environment = shown(ending["data"])
                assert words == (["fine"] if "extra" in inner else [])
                assert "bad" not in environment["NGCP_TASK_DATA"]


FIELDS = [
    {"options": []},
    {"options": {"feedback_channel": {"a": "b"}}},
    {"options": {"feedback_channel": True}},
    {"options": {"feedback_channel": "\ud800"}},
    {"uuid": "{12345678-1234-1234-1234-123456789012}"},
    {"uuid": "urn:uuid:12345678-1234-1234-1234-123456789012"},
    {"uuid": "12345678123412341234123456789012"},
    {"uuid": "１2345678-1234-1234-1234-123456789012"},
    {"uuid": "12345678-1234-1234-1234-123456789012\n"},
    {"uuid": {"$ne": None}},
    {"task": ["ping"]},
    {"src": {"x": 1}},
    {"dst": 1e308},
    {"dst": True},
]


def test_a_field_of_another_type_or_form_is_rejected(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    daemon = attacked()
    for fields in FIELDS:
        client.publish(client.request("ping", **fields))
    daemon.wait_for_log("rejected ", len(FIELDS))
    while not client.silent(0.2):
        pass
    assert set(statuses(client.responses)) == {"rejected"}
    assert "accepted" not in daemon.text()


def test_an_answer_to_a_bad_message_is_small(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    """Whoever is not a client cannot make the agent multiply a message."""
    attacked()
    long = "\x01" * 100_000
    for fields in (
        {"task": long},
        {"src": long},
        {"dst": long},
        {"uuid": long},
        {"dst": "sp1," + "\x01" * 4000 + "|x"},
        {"task": "\x01" * 128, "src": "\x01" * 255},
        {"data": {"extra_args": long}},
    ):
        (rejected,) = client.ask("ping", **fields)
        assert rejected["status"] == "rejected"
        assert len(json.dumps(rejected)) < 10_000


# Of destinations


# What only this node must not answer: all of it is wrong.
FOREIGN: List[Dict[str, Any]] = [
    {"task": "unknown"},
    {"options": {}},
    {"options": {"feedback_channel": CHANNEL}},
    {"src": "not-allowed"},
    {"data": {"n": "wrong", "extra_args": "--not-allowed"}},
    {"data": {"n": REGEX_BOMB}},
    {"data": '{"n": NaN}'},
    {"data": '{"n": 1, "n": 1}'},
    {"data": WIDE},
    {"data": {"extra_args": ["\0"]}},
]


@pytest.mark.parametrize("fields", FOREIGN, ids=lambda f: repr(f)[:40])
def test_a_node_that_was_not_addressed_is_silent(
    fields: Dict[str, Any],
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
) -> None:
    config.task(
        "picky",
        "true",
        allow_src=["tests"],
        broker_extra_args=["[a-z]+"],
        data_schema={"properties": {"n": {"type": "integer"}}},
    )
    daemon = attacked()
    used = client.ask("ping")[0]["ref"]
    before = len(client.responses)
    for dst in ("sp2", "*|role=none", "sp1|state=standby"):
        for more in ({}, {"uuid": used}):
            client.publish(client.request("picky", dst=dst, **fields, **more))
    assert statuses(client.ask("ping")) == ["accepted", "done"]
    assert client.silent()
    assert len(client.responses) == before + 2
    assert daemon.text().count("rejected ") == 0


DESTINATIONS = [
    pytest.param("*a" * 2000 + "b", id="stars"),
    pytest.param("*?" * 2000 + "b", id="stars-and-marks"),
    pytest.param("*[a-z]" * 680 + "b", id="stars-and-sets"),
    pytest.param("[" * 4096, id="brackets"),
    pytest.param("[!" * 2048, id="not-brackets"),
    pytest.param("[z-a]" * 800, id="backwards"),
    pytest.param("[\\" * 2000, id="backslashes"),
    pytest.param(",".join("x" * 2048), id="targets"),
    pytest.param("," * 4096, id="commas"),
    pytest.param("*|" + ";".join(["a=b"] * 1000), id="options"),
    pytest.param("*|role=" + "+".join("x" * 2000), id="roles"),
    pytest.param("*|role=" + "*a" * 2000 + "b", id="stars-in-a-value"),
    pytest.param("*|" + "=" * 4000, id="equals"),
    pytest.param("(a+)+$" * 600, id="regular-expression"),
    pytest.param("(?i)" + "(" * 4000, id="parentheses"),
    pytest.param("𝕤𝕡𝟙," + "İ" * 4000, id="letters"),
]


@pytest.mark.parametrize("dst", DESTINATIONS)
def test_a_destination_costs_no_time(
    dst: str,
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    name = "a" * 255
    config.agent(node={"name": "sp1", "aliases": [name], "roles": [name]})
    attacked(log_level="info")
    with Pings(server) as pings:
        flood(client, (client.request("ping", dst=dst) for _ in range(100)))
        # Only after all of them.
        done = client.send("ping", dst="sp1")
        endings(client, [done["uuid"]])
    assert max(pings.seconds) < PATIENCE


# Of uuids and channels


def test_a_uuid_runs_once_in_any_letters(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    config.shell("count", f"echo >> {folder}/count", max_queued=100)
    config.task("other", "true")
    attacked()
    one = str(uuid.uuid4())
    forms = [one, one.upper(), one.title(), one.swapcase()]
    for number in range(100):
        client.send("count" if number % 3 else "other", uuid=forms[number % 4])
    last = client.send("count")
    endings(client, [last["uuid"]])
    found = statuses(client.responses)
    assert found.count("rejected") == 99
    assert found.count("accepted") == 2
    assert (folder / "count").read_text().count("\n") <= 2


def test_a_uuid_is_not_used_up_by_what_was_never_taken(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    """Whoever guesses a request's uuid cannot have it rejected so."""
    attacked()
    one = str(uuid.uuid4())
    client.send("ping", uuid=one, dst="sp2")
    client.send("ping", uuid=one, dst=",")
    client.send("ping", uuid=one, src="")
    client.send("ping", uuid=one, options={})
    client.send("ping", uuid=one)
    assert statuses([client.next() for _ in range(4)]) == [
        *("rejected", "rejected", "accepted", "done")
    ]


def test_no_control_channel_gets_answers(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    """An answer must become no request, of another backend neither."""
    config.backend("second")
    config.task("one", "true", channel="another")
    config.task("two", "true", backend="second", channel="third")
    daemon = attacked()
    channels = (CHANNEL, "another", "third")
    for channel in channels:
        client.listen_too(channel)
    own = [
        client.send("ping", options={"feedback_channel": channel})
        for channel in channels
    ]
    daemon.wait_for_log("(no answer sent)", 3)
    heard = [client.next() for _ in own]  # only what it has sent itself
    assert [message.get("task") for message in heard] == ["ping"] * 3
    assert not any("status" in message for message in heard)
    assert client.silent()


@pytest.mark.parametrize(
    "channel",
    ["*", "__keyspace@0__:x", "x\r\nPUBLISH y z\r\n", "a b", "\u202e", "$x"],
    ids=ascii,
)
def test_a_feedback_channel_is_one_name_letter_for_letter(
    channel: str, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    attacked()
    client.listen_too(channel)
    client.listen_too("y")
    client.send("ping", options={"feedback_channel": channel})
    assert statuses([client.next(), client.next()]) == ["accepted", "done"]
    assert client.silent()


async def test_answers_to_others_requests_disturb_no_client(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.shell("victim", "sleep 1; echo mine")
    config.shell("noise", "echo noise; exit 1", max_queued=500)
    attacked(log_level="info")
    patience = Patience(timeout=2 * WITHIN, answer_timeout=WITHIN, expect=1)
    async with Invoker(find("victim", config_dir=config.path)) as invoker:
        call = invoker.send("victim", patience=patience)
        options = {"feedback_channel": invoker.feedback_channel}
        flood(
            client,
            (client.request("noise", options=options) for _ in range(200)),
        )
        flood(
            client,
            (client.request("unknown", options=options) for _ in range(200)),
        )
        heard = [response.data async for response in call]
    assert heard == [None, "mine\n"]
    assert call.outcome.succeeded


def test_live_output_that_nobody_reads_delays_no_other(
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    """Much of it, which JSON makes six times as large."""
    config.shell(
        "live",
        "timeout 2 cat /dev/zero >&2",
        live_output=True,
        broker_max_output="999G",
        max_running=64,
    )
    daemon = attacked(log_level="info")
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.sendall(b"SUBSCRIBE deaf\r\n")
        wait_for(lambda: server.subscribers("deaf"))
        with Pings(server) as pings:
            options = {
                "feedback_channel": client.channel,
                "progress_channel": "deaf",
            }
            sent = flood(
                client,
                (client.request("live", options=options) for _ in range(16)),
            )
            endings(client, sent)
    assert max(pings.seconds) < PATIENCE
    assert memory(daemon) < 150


def test_live_output_of_many_short_commands(
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    """Each with a channel of its own, some of which cannot be."""
    config.shell("live", "seq 10000", live_output=True, max_queued=1000)
    daemon = attacked(log_level="info")
    with Pings(server) as pings:
        requests = []
        for number in range(300):
            options = {"feedback_channel": client.channel}
            options["progress_channel"] = f"live {number}\r\n\0"
            if number % 10 == 0:
                options["progress_channel"] = CHANNEL
            requests.append(client.request("live", options=options))
        for ending in endings(client, flood(client, requests)):
            assert ending["status"] in ("done", "rejected"), ending
    assert max(pings.seconds) < PATIENCE
    assert memory(daemon) < 150
    assert daemon.text().count("output must not become requests") == 30


def test_a_subscriber_that_reads_nothing_delays_no_other(
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    config.shell("much", "head -c 4M /dev/zero | tr '\\0' x", max_queued=40)
    daemon = attacked(log_level="info")
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.sendall(b"SUBSCRIBE deaf\r\n")
        wait_for(lambda: server.subscribers("deaf"))
        with Pings(server) as pings:
            options = {"feedback_channel": "deaf"}
            flood(
                client,
                (client.request("much", options=options) for _ in range(8)),
            )
            daemon.wait_for_log("done much", 8)
    assert max(pings.seconds) < PATIENCE
    assert memory(daemon) < 300


def test_clients_that_leave_at_once_leave_nothing_behind(
    config: ConfigFolder,
    attacked: Attacked,
    connect: Callable[..., Client],
    server: RedisServer,
    folder: Path,
) -> None:
    config.shell(
        "slow", f"echo $$ >> {folder}/pids; exec sleep 0.5", max_queued=200
    )
    daemon = attacked()
    for _ in range(50):
        leaving = connect()
        leaving.send("slow")
        leaving.close()
    daemon.wait_for_log("done slow", 50)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert len(pids) == 50
    assert not any(map(is_running, pids))


# Of the event loop


# Each a task's options, and the data that makes its check endless.
BOMBS: List[Any] = [
    pytest.param(
        {"data_schema": REGEX_SCHEMA}, {"n": REGEX_BOMB}, id="pattern"
    ),
    pytest.param(
        {"data_schema": {"patternProperties": {"^(a|a)*b$": False}}},
        {REGEX_BOMB: 1},
        id="patternProperties",
    ),
    pytest.param(
        {"data_schema": UNIQUE_SCHEMA}, {"n": UNIQUE_BOMB}, id="uniqueItems"
    ),
    pytest.param(
        {"broker_extra_args": ["(a|a)*b"]},
        {"extra_args": REGEX_BOMB},
        id="extra_args",
    ),
    pytest.param(
        {"data_schema": REGEX_SCHEMA},
        {"n": REGEX_BOMB, "more": "x" * 10_000},
        id="large",
    ),
]


@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize(("options", "data"), BOMBS)
def test_endless_checks_delay_no_other_request(
    options: Dict[str, Any],
    data: Any,
    tasks: int,
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    for number in range(tasks):
        config.task(f"bomb{number}", "true", max_queued=1000, **options)
    config.task(
        "checked",
        "true",
        broker_extra_args=["[a-z]+"],
        data_schema={"properties": {"n": {"pattern": "^[a-z]*$"}}},
    )
    attacked(log_level="info")
    checked = {"n": "fine", "extra_args": "fine"}
    with Pings(server) as pings:
        sent = flood(
            client,
            (
                client.request(f"bomb{number % tasks}", data=data)
                for number in range(60)
            ),
        )
        others = [client.send("checked", data=checked)["uuid"]]
        ended = endings(client, [*sent, *others])
        # Checks of other tasks have not used up this one's time.
        (other,) = (e for e in ended if e["ref"] in others)
        assert other["status"] == "done", other
    assert max(pings.seconds) < PATIENCE
    bombs = [e for e in ended if e["ref"] not in others]
    assert set(statuses(bombs)) == {"rejected"}
    reasons = {bomb["reason"].partition(":")[0] for bomb in bombs}
    # Items are compared in linear time, so the last is found.
    assert ("busy" in reasons) != (reasons == {"data_schema"})


def test_a_task_takes_valid_requests_again_after_endless_checks(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.task("bomb", "true", data_schema=REGEX_SCHEMA)
    attacked(log_level="info")
    bomb = {"n": REGEX_BOMB}
    sent = flood(
        client, (client.request("bomb", data=bomb) for _ in range(30))
    )
    assert set(statuses(endings(client, sent))) == {"rejected"}
    wait_for(lambda: client.ask("bomb", data={"n": "b"})[-1]["data"] == "")


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "unknown"},
        {"uuid": "x"},
        {"dst": "sp2"},
        {"dst": "*|role=none"},
        {"options": {}},
        {"data": {"extra_args": ["-"] * 100}},
        {"task": "unknown", "data": "x" * 60_000},
    ],
    ids=lambda f: repr(f)[:40],
)
def test_a_flood_delays_no_other_request(
    fields: Dict[str, Any],
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    connect: Callable[..., Client],
    server: RedisServer,
) -> None:
    daemon = attacked()
    options = {"options": {"feedback_channel": "nobody"}}
    flooding = connect()
    with Pings(server) as pings:
        flood(
            flooding,
            (
                client.request("ping", **{**options, **fields})
                for _ in range(500)
            ),
            pause=0.004,
        )
        endings(client, [client.send("ping")["uuid"]])
    assert max(pings.seconds) < PATIENCE
    assert memory(daemon) < 200


# Of memory


def test_wide_requests_that_wait_take_no_more_memory_than_their_text(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    go = folder / "go"
    config.shell(
        "slow", f"until [ -e {go} ]; do sleep 0.1; done", max_queued=1000
    )
    daemon = attacked(log_level="info")
    heard: Dict[str, Dict[str, Any]] = {}
    for _ in range(144):
        # One by one: Redis would drop a subscriber that is too slow.
        client.publish(wide(client.request("slow")))
        response = client.next()
        heard[response["ref"]] = response
    assert memory(daemon) < 400
    busy = [r for r in heard.values() if r["status"] == "rejected"]
    # Requests for other nodes are no affair of this one, full or not.
    client.publish(wide(client.request("slow", dst="sp2")))
    client.send("ping", src="")
    assert "src" in client.next()["reason"]
    go.touch()
    taken = [ref for ref, r in heard.items() if r["status"] == "accepted"]
    ended = endings(client, taken)
    assert set(statuses(ended)) == {"done"}
    assert 8 <= len(taken) <= 80
    assert all(r["reason"].startswith("busy") for r in busy)


def test_small_requests_that_wait_are_bounded_for_all_tasks_together(
    config: ConfigFolder, attacked: Attacked, client: Client, folder: Path
) -> None:
    go = folder / "go"
    config.agent(node={"name": "sp1"}, max_request_memory="1M")
    for task in ("one", "two"):
        config.shell(
            task, f"until [ -e {go} ]; do sleep 0.1; done", max_queued=1000
        )
    daemon = attacked(log_level="info")
    assert "max_request_memory" not in daemon.text()  # it is known
    sent = flood(
        client,
        (client.request(("one", "two")[n % 2]) for n in range(400)),
    )
    heard: Dict[str, Dict[str, Any]] = {}
    while len(heard) < len(sent):
        response = client.next()
        heard[response["ref"]] = response
    taken = [ref for ref, r in heard.items() if r["status"] == "accepted"]
    busy = [r for r in heard.values() if r["status"] == "rejected"]
    assert len(taken) == 256
    assert all(r["reason"].startswith("busy") for r in busy)
    go.touch()
    assert set(statuses(endings(client, taken))) == {"done"}


def test_answers_that_nobody_hears_do_not_fill_the_memory(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    daemon = attacked(log_level="info")
    flood(
        client,
        (
            client.request(
                "x" * 100, options={"feedback_channel": f"{n}" * 100}
            )
            for n in range(5000)
        ),
    )
    assert statuses(client.ask("ping")) == ["accepted", "done"]
    assert memory(daemon) < 200


# Of traces


FORGED = "2026-01-01 00:00:00,000 INFO forged"
UGLY = "\x1b[2J\x9b31m\r\n\x0b\x0c\x85\u2028\u2029\u202e\u2066\u200f\u061c\0"


@pytest.mark.parametrize(
    "field",
    ["uuid", "task", "src", "dst", "channel", "extra_args", "data", "message"],
)
def test_no_field_forges_a_line_of_the_log(
    field: str, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.task(
        "picky",
        "true",
        broker_extra_args=["[a-z]+"],
        data_schema={"properties": {"x": {"type": "integer"}}},
    )
    daemon = attacked()
    for ugly in UGLY:
        text = f"x{ugly}{FORGED}"
        if field == "message":
            client.publish(text)
            client.publish(f'{{"src": "{text}"')
            continue
        fields: Dict[str, Any] = {field: text}
        if field == "channel":
            fields = {"options": {"feedback_channel": text}}
        elif field == "extra_args":
            fields = {"data": {"extra_args": [text]}}
        elif field == "data":
            fields = {"data": {"x": text, text: text}}
        for task in ("ping", "picky"):
            client.publish(client.request(task, **fields))
            if field == "dst":
                client.publish(client.request(task, dst=f"sp1,{text},,"))
    endings(client, [client.send("ping")["uuid"]])
    assert_one_line_each(daemon)


@pytest.mark.parametrize("stream", [1, 2])
def test_no_output_forges_a_line_of_the_log(
    stream: int, config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    text = f"{UGLY[:-1]}{FORGED}".encode()
    output = "".join(f"\\{byte:03o}" for byte in text)
    config.shell("forge", f"printf '{output}' >&{stream}; exit 3")
    daemon = attacked()
    ending = client.ask("forge")[-1]
    assert ending["status"] == "error"
    daemon.wait_for_log("error forge")
    assert_one_line_each(daemon)


def assert_one_line_each(daemon: Daemon) -> None:
    # Not by splitlines(), which also splits at what must not be there.
    for line in daemon.text().split("\n")[:-1]:
        assert line.isprintable(), ascii(line)
        assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ", line)
        assert not line.startswith(FORGED)


def test_strangers_do_not_fill_the_log(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    """What is left out is counted; accepted requests are all there."""
    config.task("true", "true", max_queued=1000)
    daemon = attacked(log_level="info")
    flood(client, (client.request("unknown") for _ in range(2500)))
    taken = flood(client, (client.request("true") for _ in range(100)))
    flood(client, (client.request("unknown") for _ in range(2500)))
    assert set(statuses(endings(client, taken))) == {"done"}
    refused = client.ask("true", src="")[-1]
    assert refused["status"] == "rejected"
    assert daemon.stop() == 0
    text = daemon.text()
    for ref in taken:
        lines = [line for line in text.split("\n") if ref in line]
        assert len(lines) == 2, lines
    written = text.count("rejected unknown")
    assert 0 < written < 1000
    left_out = re.findall(r"(\d+) more rejected requests", text)
    # The one without a source is among them.
    assert written + sum(map(int, left_out)) in (5000, 5001)


# Of the real client


def test_data_of_a_hostile_agent_takes_no_memory_of_the_client(
    config: ConfigFolder, scripted: Callable[..., Any], folder: Path
) -> None:
    """A publisher can answer in an agent's place."""
    config.task("t", "true")
    wide = b"[" + b"[]," * 8_999_999 + b"[]]"  # 27 MB

    def script(request: Dict[str, Any]) -> List[Any]:
        done = json.dumps(answer(request, "sp1", "done", data="DATA"))
        return [
            answer(request, "sp1", "accepted"),
            done.encode().replace(b'"DATA"', wide),
        ]

    scripted(script)
    done = measured(folder, config.path, "t", "--timeout", "10")
    assert done.megabytes < 300, done
    assert done.status in (1, 5), done


def test_the_answers_of_a_publisher_do_not_keep_the_client_for_ever(
    config: ConfigFolder, scripted: Callable[..., Any], folder: Path
) -> None:
    config.task("t", "true")

    def script(request: Dict[str, Any]) -> Any:
        number = 0
        while True:
            number += 1
            yield answer(request, f"node{number}", "accepted")

    scripted(script)
    done = measured(folder, config.path, "t", "--timeout", "3", "--quiet")
    assert done.seconds < WITHIN
    assert done.megabytes < 400, done
    assert done.status not in (0, 70), done


# Of built-in tasks


def test_questions_to_the_agent_itself_delay_no_other(
    config: ConfigFolder,
    attacked: Attacked,
    client: Client,
    server: RedisServer,
) -> None:
    """What runs and what can be asked for is long, and asked for often."""
    schema = {"properties": {f"k{n}": {"type": "string"} for n in range(20)}}
    for number in range(500):
        config.task(f"t{number}", "true", data_schema=schema)
    config.task("long", "sleep", broker_args="600", max_queued=3000)
    config.agent(node={"name": "sp1"}, stop_timeout=0)
    daemon = attacked(log_level="info")
    flood(client, (client.request("long") for _ in range(2000)))
    odd = [None, {}, {"ref": 1}, {"ref": "x" * 5000}, [[]] * 5000, "\ud800"]
    with Pings(server) as pings:
        sent = []
        for number in range(100):
            unknown = {"ref": str(uuid.uuid4())}
            sent += flood(
                client,
                [
                    client.request("ngcp.ping"),
                    client.request("ngcp.describe"),
                    client.request("ngcp.jobs"),
                    client.request("ngcp.cancel", data=unknown),
                    client.request("ngcp.cancel", data=odd[number % 6]),
                ],
            )
        found = endings(client, sent)
    assert max(pings.seconds) < PATIENCE
    done = [e for e in found if e["status"] == "done"]
    assert {e["task"] for e in done} == {
        *("ngcp.ping", "ngcp.describe", "ngcp.jobs", "ngcp.cancel")
    }
    for ending in found:
        assert ending["status"] in ("done", "rejected"), ending
    assert memory(daemon) < 200


def test_requests_that_give_up_at_once_leave_nothing(
    config: ConfigFolder, attacked: Attacked, client: Client
) -> None:
    config.task("long", "sleep", broker_args="600", max_running=1)
    config.agent(node={"name": "sp1"}, stop_timeout=0)
    daemon = attacked(log_level="info")
    client.send("long")
    assert client.next()["status"] == "accepted"
    options = {"feedback_channel": client.channel, "expires": 1e-6}

    def gave_up() -> None:
        sent = flood(
            client,
            (client.request("long", options=options) for _ in range(1000)),
        )
        for ending in endings(client, sent):
            assert ending["status"] in ("error", "rejected"), ending

    gave_up()
    before = memory(daemon, "VmRSS")
    for _ in range(3):
        gave_up()
    assert memory(daemon, "VmRSS") < before + 10
