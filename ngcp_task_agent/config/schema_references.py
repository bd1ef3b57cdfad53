"""References of a JSON Schema that are of no use."""

from __future__ import annotations

import urllib.parse
from typing import Any, Iterator, List, Mapping, Optional, Set, Tuple

from ngcp_task_agent.config.yaml_file import Steps


def check(schema: Any, values: Mapping[Steps, Any]) -> List[Tuple[Steps, str]]:
    """References to what is not in a schema itself, or without end.

    An ``$id`` counts as one: what is below it refers to other places.

    To follow one would mean to fetch what a file of the administrator's does
    not hold.

    :param values: all values in the schema, by their places
    """
    outside = "refers to '{}', but must be complete in itself"
    parts = [(s, v) for s, v in values.items() if isinstance(v, dict)]
    faults = [
        ((*steps, "$id"), outside.format(f"$id: {value['$id']}"))
        for steps, value in parts
        if isinstance(value.get("$id"), str)
    ]
    if faults:
        return faults
    anchors = {
        value[key]: steps
        for steps, value in parts
        for key in ("$anchor", "$dynamicAnchor")
        if isinstance(value.get(key), str)
    }
    links = {steps: _links(steps, value) for steps, value in parts}
    for steps, value in parts:
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference, place = value.get(key), (*steps, key)
            if not isinstance(reference, str):
                continue
            inside = urllib.parse.unquote(reference[1:])
            target = anchors.get(inside)
            if target is None:
                target = _find(schema, inside)
            if reference[:1] not in ("", "#") or target is None:
                faults.append((place, outside.format(reference)))
            else:
                links[steps].append((target, place))
    what = "refers to itself without end"
    return faults + [(place, what) for place in _find_circles(links)]


def _find(schema: Any, pointer: str) -> Optional[Steps]:
    """Where a JSON pointer finds a schema in another."""
    steps: Steps = ()
    for step in pointer.split("/")[1:]:
        key: Any = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and key in map(str, range(len(schema))):
            key = int(key)
        elif not isinstance(schema, dict) or key not in schema:
            return None
        schema, steps = schema[key], (*steps, key)
    is_schema = isinstance(schema, (dict, bool))
    return steps if pointer[:1] in ("", "/") and is_schema else None


# A schema that is applied to a value, and where that is said.
_Link = Tuple[Steps, Steps]


def _links(steps: Steps, schema: Mapping[str, Any]) -> List[_Link]:
    """The schemas in a schema that look at the same value as itself."""
    found: List[Steps] = [
        (*steps, key) for key in ("not", "if", "then", "else") if key in schema
    ]
    for key in ("allOf", "anyOf", "oneOf", "dependentSchemas"):
        inner = schema.get(key)
        if isinstance(inner, list):
            found += [(*steps, key, index) for index in range(len(inner))]
        elif isinstance(inner, dict):
            found += [(*steps, key, name) for name in inner]
    return [(place, place) for place in found]


def _find_circles(links: Mapping[Steps, List[_Link]]) -> Iterator[Steps]:
    """The places from which a schema leads back to one that led there."""
    done: Set[Steps] = set()
    way: Set[Steps] = set()
    todo = [(steps, steps, False) for steps in reversed([*links])]
    while todo:
        steps, place, is_left = todo.pop()
        if is_left:
            way.remove(steps)
            done.add(steps)
        elif steps in way:
            yield place
        elif steps not in done:
            way.add(steps)
            todo.append((steps, place, True))
            todo += [(*link, False) for link in links.get(steps, ())]
