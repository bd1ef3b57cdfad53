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
_STRING = "must be a string (in quotes, if it looks like something else)"
_REGEX = "must be a regular expression that Python understands"

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
    pytest.param("name: 1", "x.yml:1: name: must be a name", id="title"),
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
        "x.yml:2: count: must be 1 or more",
        id="boolean-is-no-integer",
    ),
    pytest.param(
        "name: x\nnumber: yes",
        "x.yml:2: number: must be a number",
        id="boolean-is-no-number",
    ),
    pytest.param(
        "name: x\nplain: 1",
        f"x.yml:2: plain: {_STRING}",
        id="string",
    ),
    pytest.param(
        "name: x\nflag: 1", "x.yml:2: flag: must be yes or no", id="boolean"
    ),
    pytest.param(
        "name: x\nlist: 1", "x.yml:2: list: must be a list", id="list"
    ),
    pytest.param(
        "name: x\nmap: 1",
        "x.yml:2: map: must be a mapping of keys to values",
        id="map",
    ),
    pytest.param(
        "name: x\nlist:\n- 1\n- x",
        "x.yml:4: list[1]: must be a whole number",
        id="item",
    ),
    pytest.param(
        "name: x\ntwo: 1",
        f"x.yml:2: two: {_STRING} or nothing",
        id="one-of-two-types",
    ),
    pytest.param(
        "name: x\nshort: long",
        "x.yml:2: short: must be within the rule maxLength: 3",
        id="rule-without-title",
    ),
    pytest.param(
        "name: x\nwords: [a+, '(']",
        f"x.yml:2: words[1]: {_REGEX}",
        id="regex",
    ),
    pytest.param(
        "name: x\nwords: ['a{9999999999}']",
        f"x.yml:2: words[0]: {_REGEX}",
        id="regex-too-large",
    ),
    pytest.param(
        "name: x\nwords: ['" + "(" * 5000 + "']",
        f"x.yml:2: words[0]: {_REGEX}",
        id="regex-too-deep",
    ),
    pytest.param(
        "[]",
        "x.yml:1: must be a mapping of keys to values",
        id="not-a-mapping",
    ),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_fault(text: str, expected: str) -> None:
    document = yamlfile.read(Path("x.yml"), text)
    found = schemas.check(document, document.value, SCHEMA)
    assert [str(fault) for fault in found] == [expected]


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
    assert str(fault) == "x.yml:3: a.b.name: must be a name"


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
