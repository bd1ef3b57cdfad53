"""JSON Schema for configuration: every fault, in words, at its line.

A schema's ``title`` says what a value must be, and stands in the fault.
"""

from __future__ import annotations

import difflib
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import jsonschema

from ngcp_task_agent.yamlfile import Document, Fault, Steps

Schema = Mapping[str, Any]

_formats = jsonschema.FormatChecker(formats=["regex"])


def check(
    document: Document, value: Any, schema: Schema, at: Steps = ()
) -> List[Fault]:
    """The faults of a value that stands in a document at these steps."""
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=_formats
    )
    # Two missing keys are two errors that both tell of both.
    faults: Dict[Fault, None] = {}
    for error in validator.iter_errors(value):
        for steps, what in _explain(error):
            faults[document.fault((*at, *steps), what)] = None
    return list(faults)


def _explain(
    error: jsonschema.ValidationError,
) -> Iterator[Tuple[Steps, str]]:
    """Where and what, for a person; one error can be about several keys."""
    steps: Steps = tuple(error.absolute_path)
    if error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield steps, f"the key '{key}' is missing"
    elif error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for key in error.instance:
            if key not in known:
                yield (*steps, key), f"is no known key{_meant(key, known)}"
    elif error.validator == "format":
        yield steps, "must be a regular expression that Python understands"
    elif "title" in error.schema:
        yield steps, f"must be {error.schema['title']}"
    else:
        yield steps, f"must be {_in_words(error)}"


def _meant(key: str, known: List[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    if close:
        return f"; is '{close[0]}' meant?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


_TYPES: Dict[str, str] = {
    "object": "a mapping of keys to values",
    "array": "a list",
    "string": "a string (in quotes, if it looks like something else)",
    "boolean": "yes or no",
    "integer": "a whole number",
    "number": "a number",
}


def _in_words(error: jsonschema.ValidationError) -> str:
    if error.validator == "type":
        return _TYPES.get(error.validator_value, str(error.validator_value))
    return f"within the rule {error.validator}: {error.validator_value}"


def find_reference(schema: Any) -> str:
    """A reference to another document in a schema, or nothing.

    To follow one would mean to fetch what a file of the administrator's does
    not hold.
    """
    todo = [schema]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            for key in ("$ref", "$dynamicRef", "$recursiveRef"):
                reference = value.get(key)
                if isinstance(reference, str) and reference[:1] != "#":
                    return reference
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    return ""
