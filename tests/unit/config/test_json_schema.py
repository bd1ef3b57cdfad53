"""Faults of a JSON Schema that an administrator has written."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from ngcp_task_agent.config import yaml_file
from ngcp_task_agent.config.faults import FAULTY
from ngcp_task_agent.config.json_schema import explain_schema


def faults_of_schema(text: str) -> List[str]:
    document = yaml_file.parse_yaml(Path("x.yml"), text)
    found = explain_schema(document.value)
    return [str(document.fault(*finding)) for finding in found]


REFERENCES = [
    pytest.param("$ref: http://u:x@x/y", "1: $ref", id="address"),
    pytest.param("$ref: o.json#/a", "1: $ref", id="file"),
    pytest.param("a: 1\n$ref: '#/b'", "2: $ref", id="nowhere"),
    pytest.param("$ref: '#a'", "1: $ref", id="no-such-anchor"),
    pytest.param("a: 1\n$ref: '#/a'", "2: $ref", id="to-no-schema"),
    pytest.param(
        "allOf:\n- {}\nitems: {$ref: '#/allOf/1'}",
        "3: items.$ref",
        id="to-no-item",
    ),
    pytest.param(
        "allOf:\n- {}\n- $ref: x", "3: allOf[1].$ref", id="in-a-list"
    ),
    pytest.param(
        "a:\n  b:\n    $dynamicRef: x", "3: a.b.$dynamicRef", id="dynamic"
    ),
    pytest.param("not:\n  $id: x", "2: not.$id", id="id"),
]


@pytest.mark.parametrize(("text", "place"), REFERENCES)
def test_reference_out_of_the_schema(text: str, place: str) -> None:
    (fault,) = faults_of_schema(text)
    what = "leads to nothing in this schema: it must be self-contained"
    assert fault == f"x.yml:{place}: {what}"


ENDLESS = [
    pytest.param("$ref: '#'", "1: $ref", id="itself"),
    pytest.param("$ref: ''", "1: $ref", id="itself-by-nothing"),
    pytest.param("allOf:\n- {}\n- $ref: '#'", "3: allOf[1].$ref", id="all"),
    pytest.param("not:\n  $ref: '#'", "2: not.$ref", id="not"),
    pytest.param(
        "if: {type: 'null'}\nthen:\n  $ref: '#'", "3: then.$ref", id="then"
    ),
    pytest.param(
        "dependentSchemas:\n  a:\n    $ref: '#'",
        "3: dependentSchemas.a.$ref",
        id="dependent",
    ),
    pytest.param(
        "anyOf:\n- $ref: '#/$defs/a'\n$defs:\n  a: {$ref: '#/$defs/b'}\n"
        "  b: {oneOf: [{$dynamicRef: '#'}]}",
        "5: $defs.b.oneOf[0].$dynamicRef",
        id="in-a-circle",
    ),
    pytest.param(
        "items:\n  $anchor: x\n  else: {$ref: '#x'}\n"
        "contains:\n  $ref: '#/contains'",
        "3: items.else.$ref",  # one at a time
        id="two",
    ),
    pytest.param(
        "$ref: '#/not/allOf/0'\nnot:\n  allOf:\n  - $ref: '#/not'",
        "4: not.allOf[0].$ref",
        id="into-the-middle",
    ),
]


@pytest.mark.parametrize(("text", "place"), ENDLESS)
def test_endless_reference(text: str, place: str) -> None:
    what = "refers to itself in an endless loop"
    assert faults_of_schema(text) == [f"x.yml:{place}: {what}"]


SOUND = [
    pytest.param("yes", id="boolean"),
    pytest.param("{$ref: '#/$defs/a', $defs: {a: {}}}", id="inside"),
    pytest.param("{$ref: '#/allOf/0', allOf: [{}]}", id="to-an-item"),
    pytest.param("{$ref: '#a', $defs: {x: {$anchor: a}}}", id="anchor"),
    pytest.param("{properties: {$ref: {}}}", id="a-property's-name"),
    pytest.param("{items: {$ref: '#'}}", id="deeper-in-the-data"),
    pytest.param("{const: {$ref: '#'}}", id="no-schema"),
    pytest.param(
        "{allOf: [{$ref: '#/$defs/a'}, {$ref: '#/$defs/a'}], $defs: {a: {}}}",
        id="twice",
    ),
    pytest.param(
        "{anyOf: [{type: string}, {properties: {a: {$ref: '#'}}}]}", id="tree"
    ),
]


@pytest.mark.parametrize("text", SOUND)
def test_valid_schema(text: str) -> None:
    assert faults_of_schema(text) == []


def test_references_that_double_are_not_a_loop() -> None:
    """Followed one by one, there would be 2 to the 40th."""
    definitions = {
        str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2}
        for n in range(40)
    }
    schema = {"$ref": "#/$defs/0", "$defs": {**definitions, "40": {}}}
    assert explain_schema(schema) == []


NO_SCHEMAS = [
    pytest.param(
        "properties:\n  a:\n    type: strin",
        "x.yml:3: properties.a.type: unknown type 'strin'; "
        "did you mean 'string'?",
        id="type",
    ),
    pytest.param(
        "type:\n  5",
        "x.yml:1: type: unknown type '5'; known: array, boolean, integer, "
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
        "x.yml:1: required: must be a list; write it as a list: ['...']",
        id="required",
    ),
    pytest.param(
        "minLength: -1",
        "x.yml:1: minLength: must be valid under minimum: 0",
        id="rule",
    ),
    pytest.param(
        "\npattern: '('",
        "x.yml:2: pattern: must be a regular expression that Python "
        "understands: missing ), unterminated subpattern at position 0",
        id="expression",
    ),
    pytest.param(
        "dependencies:\n  a: 5",
        "x.yml:2: dependencies.a: must be valid under anyOf: "
        "[{'$dynamicRef': '#meta'}, "
        "{'$ref': 'meta/validation#/$defs/stringArray'}]",
        id="else",
    ),
]


@pytest.mark.parametrize(("text", "expected"), NO_SCHEMAS)
def test_fault_of_a_schema(text: str, expected: str) -> None:
    assert faults_of_schema(text) == [expected]


@pytest.mark.parametrize("types", ["[]", "[string, string]"])
def test_known_types_in_a_faulty_list(types: str) -> None:
    assert faults_of_schema(f"type: {types}") == [
        "x.yml:1: type: must be a type, or a list of different types"
    ]


def test_unknown_type_among_several() -> None:
    ((_, what),) = explain_schema({"type": ["string", "nul"]})
    assert what == "unknown type 'nul'; did you mean 'null'?"


def test_all_faults_of_a_schema_at_once() -> None:
    found = faults_of_schema(
        "properties:\n  a: {type: dict}\n  b: {minLength: -1}\n"
        "  c: {$ref: x}\n  d: {enum: [2026-01-31]}\n  e: {type: 2026-01-31}\n"
        "allOf:\n- $ref: '#'\n"
    )
    assert sorted(fault.split(": ")[:2] for fault in found) == [
        ["x.yml:2", "properties.a.type"],
        ["x.yml:3", "properties.b.minLength"],
        ["x.yml:4", "properties.c.$ref"],
        ["x.yml:5", "properties.d.enum[0]"],
        ["x.yml:6", "properties.e.type"],
        ["x.yml:8", "allOf[0].$ref"],
    ]


def test_a_faulty_value_has_no_second_fault() -> None:
    assert explain_schema({"type": FAULTY, "items": FAULTY}) == []
    assert explain_schema({"type": ["string", FAULTY]}) == []
