"""Faults of a schema, in words and at their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ngcp_task_agent import schemas, yamlfile

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
    },
}

_KEYS = "count, flag, list, map, name, number, plain, short, two, words"
_STRING = "must be a string"
_REGEX = "must be a regular expression that Python understands"
_UNCLOSED = "missing ), unterminated subpattern at position 0"

FAULTS = [
    pytest.param(
        "count: 1", "x.yml:1: the key 'name' is missing", id="missing"
    ),
    pytest.param(
        "name: x\ncout: 1",
        "x.yml:2: cout: is no known key; is 'count' meant?",
        id="misspelt",
    ),
    pytest.param(
        "name: x\nzzz: 1",
        f"x.yml:2: zzz: is no known key; known are {_KEYS}",
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
        "x.yml:2: flag: must be yes or no; this is a number",
        id="boolean",
    ),
    pytest.param(
        "name: x\nlist: 1",
        "x.yml:2: list: must be a list; this is a number",
        id="list",
    ),
    pytest.param(
        "name: x\nmap: 1",
        "x.yml:2: map: must be a mapping of keys to values; this is a number",
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
        "x.yml:2: short: must be within the rule maxLength: 3",
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
        "name: x\nwords: ['" + "(" * 5000 + "']",
        f"x.yml:2: words[0]: {_REGEX}: it is nested too deep",
        id="regex-too-deep",
    ),
    pytest.param(
        "name: x\nwords: ['(?P<" + "a" * 200 + "-b>x)']",
        f"x.yml:2: words[0]: {_REGEX}: bad character in group name '"
        + "a" * 51
        + "…",
        id="regex-with-a-long-reason",
    ),
    pytest.param(
        "[]",
        "x.yml:1: must be a mapping of keys to values; this is a list",
        id="not-a-mapping",
    ),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_fault(text: str, expected: str) -> None:
    document = yamlfile.read(Path("x.yml"), text)
    found = schemas.check(document, document.value, SCHEMA)
    assert [str(fault) for fault in found] == [expected]


_QUOTES = "put it in quotes"
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
        "string", "{a: 1}", "; these are keys with values", id="mapping"
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
    pytest.param("array", "web*", "; write ['web*']", id="one-item"),
    pytest.param("array", "it's", "; write ['it''s']", id="item-with-quote"),
    pytest.param("array", "a, b", "; this is a string", id="two-items"),
    pytest.param("array", "5", "; this is a number", id="one-number"),
    pytest.param("array", "2026-01-31", "; this is a date", id="one-date"),
    pytest.param("array", "x" * 99, "; this is a string", id="long-item"),
    pytest.param("array", '"a\\nb"', "; this is a string", id="item-of-lines"),
    pytest.param(
        "object", "- a: 1", "; write its keys without '- '", id="item-of-keys"
    ),
    pytest.param("object", "- a", "; this is a list", id="items"),
]


@pytest.mark.parametrize(("kind", "text", "hint"), HINTS)
def test_says_what_to_do_about_a_type(kind: str, text: str, hint: str) -> None:
    document = yamlfile.read(Path("x.yml"), f"a:\n  {text}\n")
    schema = {"properties": {"a": {"type": kind, "title": "so and so"}}}
    (fault,) = schemas.check(document, document.value, schema)
    assert str(fault) == f"x.yml:1: a: must be so and so{hint}"


def test_all_faults_at_once() -> None:
    document = yamlfile.read(Path("x.yml"), "a: 1\nb: 2\nflag: x\n")
    found = schemas.check(document, document.value, SCHEMA)
    assert sorted((fault.line, fault.where) for fault in found) == [
        (1, ""),
        (1, "a"),
        (2, "b"),
        (3, "flag"),
    ]


def test_several_missing_keys_are_told_once_each() -> None:
    document = yamlfile.read(Path("x.yml"), "{}")
    schema = {"required": ["a", "b", "c"]}
    found = schemas.check(document, {}, schema)
    assert sorted(fault.what for fault in found) == [
        f"the key '{key}' is missing" for key in "abc"
    ]


def test_sound() -> None:
    text = "{name: x, count: 1, list: [1], words: ['a.*'], number: 1}"
    document = yamlfile.read(Path("x.yml"), text)
    assert schemas.check(document, document.value, SCHEMA) == []


def test_value_inside_a_document() -> None:
    document = yamlfile.read(Path("x.yml"), "a:\n  b:\n    name: 1\n")
    at = ("a", "b")
    (fault,) = schemas.check(document, document.value["a"]["b"], SCHEMA, at)
    assert str(fault) == "x.yml:3: a.b.name: must be a name; put it in quotes"


REFERENCES = [
    pytest.param({"$ref": "http://x/y"}, "http://x/y", id="address"),
    pytest.param({"$ref": "other.json#/a"}, "other.json#/a", id="file"),
    pytest.param({"$ref": ""}, "", id="nothing-at-all"),
    pytest.param({"$ref": "#/$defs/a", "$defs": {"a": {}}}, "", id="inside"),
    pytest.param({"$ref": "#/a"}, "#/a", id="nowhere"),
    pytest.param({"$ref": "#a"}, "#a", id="no-such-anchor"),
    pytest.param({"$ref": "#/a", "a": 1}, "#/a", id="to-no-schema"),
    pytest.param({"$ref": "#/allOf/0", "allOf": [{}]}, "", id="to-an-item"),
    pytest.param({"items": [{"$ref": "x"}]}, "x", id="in-a-list"),
    pytest.param({"a": {"b": {"$dynamicRef": "x"}}}, "x", id="dynamic"),
    pytest.param({"properties": {"$ref": {}}}, "", id="a-property's-name"),
    pytest.param(True, "", id="boolean"),
    pytest.param(None, "", id="none"),
]


@pytest.mark.parametrize(("schema", "found"), REFERENCES)
def test_find_reference(schema: Any, found: str) -> None:
    assert schemas.find_reference(schema) == found


NO_SCHEMAS = [
    pytest.param(
        "properties:\n  a:\n    type: strin",
        "x.yml:3: properties.a.type: 'strin' is no type; is 'string' meant?",
        id="type",
    ),
    pytest.param(
        "type:\n  5",
        "x.yml:1: type: '5' is no type; known are array, boolean, integer, "
        "null, number, object, string",
        id="type-a-number",
    ),
    pytest.param(
        "properties:\n  a: string",
        "x.yml:2: properties.a: must be a JSON Schema; write {type: string}",
        id="type-alone",
    ),
    pytest.param(
        "items:\n  a",
        "x.yml:1: items: must be a JSON Schema; this is a string",
        id="no-schema",
    ),
    pytest.param(
        "required: name",
        "x.yml:1: required: must be a list; write ['name']",
        id="required",
    ),
    pytest.param(
        "minLength: -1",
        "x.yml:1: minLength: must be within the rule minimum: 0",
        id="rule",
    ),
    pytest.param(
        "\npattern: '('",
        f"x.yml:2: pattern: {_REGEX}: {_UNCLOSED}",
        id="expression",
    ),
    pytest.param(
        "dependencies:\n  a: 5",
        "x.yml:2: dependencies.a: is not valid in a JSON Schema",
        id="else",
    ),
]


@pytest.mark.parametrize(("text", "expected"), NO_SCHEMAS)
def test_says_what_is_wrong_in_a_schema(text: str, expected: str) -> None:
    document = yamlfile.read(Path("x.yml"), text)
    found = schemas.check_schema(document.value)
    assert found
    assert str(document.fault(*found)) == expected


def test_says_which_of_several_types_is_none() -> None:
    found = schemas.check_schema({"type": ["string", "nul"]})
    assert found
    assert found[1] == "'nul' is no type; is 'null' meant?"
