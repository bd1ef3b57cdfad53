"""What is wrong with a JSON Schema that an administrator has written."""

from __future__ import annotations

import datetime
import functools
import graphlib
import json
import urllib.parse
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Tuple,
    Union,
)

import jsonschema

from ngcp_task_agent.config.explain import explain
from ngcp_task_agent.config.faults import Finding, Steps

# JSON Schema keywords that name a schema, refer to one, hold one for the same
# value, or hold several of these.
_ANCHORS = {"$anchor", "$dynamicAnchor"}
_REFERENCES = {"$id", "$ref", "$dynamicRef", "$recursiveRef"}
_SAME_VALUE = {"not", "if", "then", "else"}
_SAME_VALUE_EACH = {"allOf", "anyOf", "oneOf", "dependentSchemas"}


def explain_schema(schema: Any) -> List[Finding]:
    """List what is wrong with a JSON Schema itself, once for each place."""
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError):  # a date, or a value with a fault
        return [*_explain(schema)]
    return [*_explain_text(text)]


# jsonschema takes milliseconds for each, again at each reload.
@functools.lru_cache(maxsize=10_000)
def _explain_text(text: str) -> Tuple[Finding, ...]:
    return tuple(_explain(json.loads(text)))


def _explain(schema: Any) -> Iterable[Finding]:
    places = dict(_walk(schema))
    found: Dict[Steps, str] = {}
    for steps, value in places.items():
        if isinstance(value, datetime.date):
            found[steps] = "is a date, unknown to JSON: put it in quotes"
    for steps, what in (
        *explain(schema, jsonschema.Draft202012Validator.META_SCHEMA),
        *_explain_references(places),
    ):
        found.setdefault(steps, what)
    return found.items()


# JSON Schema keywords that hold data, or schemas by name.
_DATA = {"const", "default", "enum", "examples"}
_BY_NAME = {
    *("$defs", "definitions", "dependencies", "dependentSchemas"),
    *("patternProperties", "properties"),
}


def subschemas(schema: Any, steps: Steps = ()) -> Iterator[Tuple[Steps, Any]]:
    """Yield a JSON Schema and all schemas in it, each a mapping.

    Those of unknown keywords count, too: a ``$ref`` can lead there.
    """
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from subschemas(item, (*steps, index))
    if not isinstance(schema, dict):
        return
    yield steps, schema
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, dict):
            for name, item in value.items():
                yield from subschemas(item, (*steps, key, name))
        elif key not in _DATA:
            yield from subschemas(value, (*steps, key))


#: The formats that a data_schema checks.  jsonschema checks these by itself,
#: and others only where further packages happen to be installed.
DATA_FORMATS = ("date", "email", "idn-email", "ipv4", "ipv6", "regex", "uuid")


def unchecked_formats(schema: Any) -> Iterator[Finding]:
    """Find the formats in a JSON Schema that are not checked."""
    for steps, inner in subschemas(schema):
        name = inner.get("format")
        if isinstance(name, str) and name not in DATA_FORMATS:
            known = ", ".join(DATA_FORMATS)
            yield (*steps, "format"), f"is not checked; checked: {known}"


def _walk(value: Any, steps: Steps = ()) -> Iterator[Tuple[Steps, Any]]:
    """Yield a value and all values in it, outermost first."""
    yield steps, value
    inner: Iterable[Tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for step, item in inner:
        yield from _walk(item, (*steps, step))


def _explain_references(places: Mapping[Steps, Any]) -> Iterator[Finding]:
    """Find references that lead out of a schema, to nothing, or in a loop.

    Following one that leads out would fetch it.  With an ``$id``, all
    references below it lead out.  A loop is endless if no step of it goes
    deeper into the data.

    :param places: all values in the schema
    """
    targets: Dict[str, Steps] = {}
    references: Dict[Steps, str] = {}
    graph: graphlib.TopologicalSorter[Steps] = graphlib.TopologicalSorter()
    for steps, value in places.items():
        above, last = (None, None, *steps)[-2:]
        if isinstance(value, (dict, bool)):
            targets["".join(map(_pointer, steps))] = steps
        elif isinstance(value, str) and last in _ANCHORS:
            targets[value] = steps[:-1]
        elif isinstance(value, str) and last in _REFERENCES:
            references[steps] = value
        if last in _SAME_VALUE or steps in references:
            graph.add(steps[:-1], steps)
        elif above in _SAME_VALUE_EACH:
            graph.add(steps[:-2], steps)
    for steps, reference in references.items():
        target = targets.get(urllib.parse.unquote(reference[1:]))
        is_inside = reference[:1] in ("", "#") and steps[-1] != "$id"
        if target is not None and is_inside:
            graph.add(steps, target)
            continue
        yield (
            steps,
            "leads to nothing in this schema: it must be self-contained",
        )
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        place = next(steps for steps in error.args[1] if steps in references)
        yield place, "refers to itself in an endless loop"


def _pointer(step: Union[str, int]) -> str:
    """Return a step as part of a JSON pointer."""
    return "/" + str(step).replace("~", "~0").replace("/", "~1")
