"""Faults of a schema: their texts and their lines."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from ngcp_task_agent.config import yaml_file
from ngcp_task_agent.config.faults import Schema

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "title": "a name"},
        "count": {"type": "integer", "minimum": 1, "title": "1 or more"},
        "plain": {"type": "string"},
        "number": {"type": "number"},
        "two": {"type": ["string", "null"]},
        "list": {"type": "array", "items": {"type": "integer"}},
        "flag": {"type": "boolean"},
        "map": {"type": "object"},
        "words": {"type": "array", "items": {"format": "regex"}},
        "short": {"maxLength": 3},
        "command": {"format": "shell-words"},
        "names": {"propertyNames": {"maxLength": 3, "title": "short names"}},
        "one": {"not": {"required": ["b", "a"]}},
    },
}


def faults(text: str, schema: Schema = SCHEMA) -> List[str]:
    document = yaml_file.parse_yaml(Path("x.yml"), text)
    document.validate(document.value, schema)
    return [str(fault) for fault in document.faults]


_KEYS = (
    "command, count, flag, list, map, name, names, number, one, plain, short, "
    "two, words"
)
_STRING = "must be a string"
_REGEX = "must be a regular expression that Python understands"
_WORDS = "must be words that a POSIX shell could split"
_UNCLOSED = "missing ), unterminated subpattern at position 0"

FAULTS = [
    pytest.param(
        "count: 1", "x.yml:1: the key 'name' is missing", id="missing"
    ),
    pytest.param(
        "name: x\ncout: 1",
        "x.yml:2: cout: unknown key; did you mean 'count'?",
        id="misspelt",
    ),
    pytest.param(
        "name: x\nzzz: 1",
        f"x.yml:2: zzz: unknown key; known: {_KEYS}",
        id="unknown",
    ),
    pytest.param(
        "name: [x]",
        "x.yml:1: name: must be a name; this is a list",
        id="title",
    ),
    pytest.param(
        "name: x\ncount: 0", "x.yml:2: count: must be 1 or more", id="range"
    ),
    pytest.param(
        "name: x\ncount: 1.0",
        "x.yml:2: count: must be 1 or more",
        id="float-is-no-integer",
    ),
    pytest.param(
        "name: x\ncount: yes",
        "x.yml:2: count: must be 1 or more; this is yes or no",
        id="boolean-is-no-integer",
    ),
    pytest.param(
        "name: x\nnumber: yes",
        "x.yml:2: number: must be a number; this is yes or no",
        id="boolean-is-no-number",
    ),
    pytest.param(
        "name: x\nplain: 1",
        f"x.yml:2: plain: {_STRING}; put it in quotes",
        id="string",
    ),
    pytest.param(
        "name: x\nflag: 1",
        "x.yml:2: flag: must be yes or no; this is a whole number",
        id="boolean",
    ),
    pytest.param(
        "name: x\nlist: 1",
        "x.yml:2: list: must be a list; this is a whole number",
        id="list",
    ),
    pytest.param(
        "name: x\nmap: 1",
        "x.yml:2: map: must be a mapping of keys to values; this is a whole "
        "number",
        id="map",
    ),
    pytest.param(
        "name: x\nlist:\n- 1\n- x",
        "x.yml:4: list[1]: must be a whole number; this is a string",
        id="item",
    ),
    pytest.param(
        "name: x\ntwo: 1",
        f"x.yml:2: two: {_STRING} or nothing; put it in quotes",
        id="one-of-two-types",
    ),
    pytest.param(
        "name: x\nshort: long",
        "x.yml:2: short: must be valid under maxLength: 3",
        id="rule-without-title",
    ),
    pytest.param(
        "name: x\nwords: [a+, '(']",
        f"x.yml:2: words[1]: {_REGEX}: {_UNCLOSED}",
        id="regex",
    ),
    pytest.param(
        "name: x\nwords: ['a{9999999999}']",
        f"x.yml:2: words[0]: {_REGEX}: the repetition number is too large",
        id="regex-too-large",
    ),
    pytest.param(
        "name: x\nwords: ['(?P<" + "a" * 200 + "-b>x)']",
        f"x.yml:2: words[0]: {_REGEX}: bad character in group name '"
        + "a" * 51,
        id="regex-with-a-long-reason",
    ),
    pytest.param(
        "name: x\ncommand: it's",
        f"x.yml:2: command: {_WORDS}: No closing quotation",
        id="quote",
    ),
    pytest.param(
        "name: x\ncommand: a\\",
        f"x.yml:2: command: {_WORDS}: No escaped character",
        id="backslash",
    ),
    pytest.param(
        "name: x\nnames:\n  abc: 1\n  abcd: 1",
        "x.yml:4: names.abcd: must be short names",
        id="name",
    ),
    pytest.param(
        "name: x\none:\n  a: 1\n  b: 1\n  c: 1",
        "x.yml:4: one.b: give b or a, not both",
        id="keys-that-exclude-each-other",
    ),
    pytest.param(
        "[]",
        "x.yml:1: must be a mapping of keys to values; this is a list",
        id="not-a-mapping",
    ),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_fault(text: str, expected: str) -> None:
    assert faults(text) == [expected]


def test_an_expression_that_is_nested_too_deeply() -> None:
    (fault,) = faults("name: x\nwords: ['" + "(" * 5000 + "']")
    assert fault.startswith(f"x.yml:2: words[0]: {_REGEX}: ")


_QUOTES = "put it in quotes"
_AS_LIST = "write it as a list: ['...']"
_NO_QUOTES = "write it without quotes"
_NO_UNIT = "write the number alone, without a unit"

HINTS = [
    pytest.param("string", "10", f"; {_QUOTES}", id="number"),
    pytest.param("string", "1.5", f"; {_QUOTES}", id="fraction"),
    pytest.param("string", "yes", f"; {_QUOTES}", id="yes"),
    pytest.param("string", "2026-01-31", f"; {_QUOTES}", id="date"),
    pytest.param("string", "2026-01-31 10:00:00", f"; {_QUOTES}", id="time"),
    pytest.param("string", "", "; it is empty", id="nothing"),
    pytest.param(
        "string",
        "{a: 1}",
        "; this is a mapping of keys to values",
        id="mapping",
    ),
    pytest.param("integer", "'8'", f"; {_NO_QUOTES}", id="quoted"),
    pytest.param("number", "'0.5'", f"; {_NO_QUOTES}", id="quoted-fraction"),
    pytest.param("number", "5s", f"; {_NO_UNIT}", id="unit"),
    pytest.param("number", "'10 s'", f"; {_NO_UNIT}", id="quoted-unit"),
    pytest.param("number", "1.5 min", f"; {_NO_UNIT}", id="unit-and-space"),
    pytest.param("number", "soon", "; this is a string", id="no-number"),
    pytest.param("integer", "1.5", "", id="float"),
    pytest.param("boolean", "'yes'", f"; {_NO_QUOTES}", id="quoted-yes"),
    pytest.param("boolean", "maybe", "; this is a string", id="no-boolean"),
    pytest.param("array", "web*", f"; {_AS_LIST}", id="one-item"),
    pytest.param("array", "it's", f"; {_AS_LIST}", id="item-with-quote"),
    pytest.param("array", "a, b", "; this is a string", id="two-items"),
    pytest.param("array", "5", "; this is a whole number", id="one-number"),
    pytest.param("array", "2026-01-31", "; this is a date", id="one-date"),
    pytest.param("array", "x --y", "; this is a string", id="two-words"),
    pytest.param("array", '"a\\nb"', "; this is a string", id="item-of-lines"),
    pytest.param(
        "object", "- a: 1", "; write its keys without '- '", id="item-of-keys"
    ),
    pytest.param("object", "- a", "; this is a list", id="items"),
]


@pytest.mark.parametrize(("kind", "text", "hint"), HINTS)
def test_advice_for_a_wrong_type(kind: str, text: str, hint: str) -> None:
    schema = {"properties": {"a": {"type": kind, "title": "so and so"}}}
    (fault,) = faults(f"a:\n  {text}\n", schema)
    assert fault == f"x.yml:1: a: must be so and so{hint}"


def test_all_faults_at_once() -> None:
    found = sorted(faults("a: 1\nb: 2\nflag: x\n"))
    assert [fault.split(": ")[:2] for fault in found] == [
        ["x.yml:1", "a"],
        ["x.yml:1", "the key 'name' is missing"],
        ["x.yml:2", "b"],
        ["x.yml:3", "flag"],
    ]


def test_several_missing_keys_are_reported_once_each() -> None:
    assert sorted(faults("{}", {"required": ["a", "b", "c"]})) == [
        f"x.yml:1: the key '{key}' is missing" for key in "abc"
    ]


def test_valid() -> None:
    text = "{name: x, count: 1, list: [1], words: ['a.*'], number: 1}"
    assert faults(text) == []


def test_value_inside_a_document() -> None:
    document = yaml_file.parse_yaml(Path("x.yml"), "a:\n  b:\n    name: 1\n")
    document.validate(document.value["a"]["b"], SCHEMA, at=("a", "b"))
    (fault,) = document.faults
    assert str(fault) == "x.yml:3: a.b.name: must be a name; put it in quotes"


@pytest.mark.parametrize(
    ("key", "schema"),
    [
        ("mode", {"type": ["object", "boolean"], "title": "a mode"}),
        ("type", {"anyOf": [{"type": "integer"}], "title": "a mode"}),
    ],
)
def test_title_of_what_looks_like_a_schema(key: str, schema: Schema) -> None:
    (fault,) = faults(f"{key}: x", {"properties": {key: schema}})
    assert f"{key}: must be a mode" in fault


def test_one_fault_for_each_value() -> None:
    found = faults("name: 2026-13-45\ncount: 1\nlist: [.inf, x]\n")
    assert [fault.split(": ")[1] for fault in found] == [
        "name",
        "list[0]",
        "list[1]",
    ]
