"""JSON Schema for configuration: every fault, in words, at its line.

A schema's ``title`` says what a value must be, and stands in the fault.
"""

from __future__ import annotations

import difflib
import re
import urllib.parse
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import jsonschema

from ngcp_task_agent.yamlfile import Document, Fault, Steps

Schema = Mapping[str, Any]


def _is_integer(checker: Any, value: Any) -> bool:
    """JSON Schema takes 1.0 for an integer; sizes and ports are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_regex(value: Any) -> bool:
    return not isinstance(value, str) or bool(re.compile(value))


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", _is_integer
    ),
)
_formats = jsonschema.FormatChecker(formats=["regex"])
# jsonschema's own does not expect "a{9999999999}" and 5,000 brackets.
_formats.checkers["regex"] = (
    _is_regex,
    (re.error, OverflowError, RecursionError),
)


def check(
    document: Document, value: Any, schema: Schema, at: Steps = ()
) -> List[Fault]:
    """The faults of a value that stands in a document at these steps."""
    validator = _Validator(schema, format_checker=_formats)
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
    "null": "nothing",
}


def _in_words(error: jsonschema.ValidationError) -> str:
    if error.validator == "type":
        types = error.validator_value
        if isinstance(types, str):
            types = [types]
        return " or ".join(_TYPES.get(name, str(name)) for name in types)
    return f"within the rule {error.validator}: {error.validator_value}"


def check_schema(schema: Any) -> Optional[Steps]:
    """Where a schema of the administrator's is none; None if it is one."""
    meta = jsonschema.Draft202012Validator.META_SCHEMA
    validator = jsonschema.Draft202012Validator(meta, format_checker=_formats)
    error = jsonschema.exceptions.best_match(validator.iter_errors(schema))
    return None if error is None else tuple(error.absolute_path)


def find_reference(schema: Any) -> str:
    """A reference to what is not in a schema itself, or nothing.

    An ``$id`` counts as one: what is below it refers to other places.

    To follow one would mean to fetch what a file of the administrator's does
    not hold.
    """
    todo, references, anchors = [schema], [], set()
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            for key in ("$ref", "$dynamicRef", "$recursiveRef"):
                if isinstance(value.get(key), str):
                    references.append(value[key])
            if isinstance(value.get("$id"), str):
                return f"$id: {value['$id']}"
            for key in ("$anchor", "$dynamicAnchor"):
                anchors.add(str(value.get(key)))
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
    for reference in references:
        inside = urllib.parse.unquote(reference[1:])
        if reference[:1] != "#" or not (
            inside in anchors or _leads_to_schema(schema, inside)
        ):
            return str(reference)
    return ""


def _leads_to_schema(schema: Any, pointer: str) -> bool:
    """Whether a JSON pointer finds a schema in another."""
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            schema = dict(zip(map(str, range(len(schema))), schema))
        if not isinstance(schema, dict) or step not in schema:
            return False
        schema = schema[step]
    return pointer[:1] in ("", "/") and isinstance(schema, (dict, bool))
