"""JSON Schema for configuration: every fault, in words, at its line.

A schema's ``title`` says what a value must be, and stands in the fault.
"""

from __future__ import annotations

import difflib
import re
import urllib.parse
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
)

import jsonschema

from ngcp_task_agent.yamlfile import Document, Fault, Steps

Schema = Mapping[str, Any]

_REASON = 80  # characters of another's text


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
        known = error.schema.get("properties", {})
        for key in error.instance:
            if key not in known:
                hint = _place(key, known) or meant(key, known)
                yield (*steps, key), f"is no known key{hint}"
    elif error.validator == "format":
        reason = _why_no_regex(error.cause)
        wanted = "a regular expression that Python understands"
        yield steps, f"must be {wanted}: {reason}"
    else:
        wanted = error.schema.get("title") or _in_words(error)
        yield steps, f"must be {wanted}{_instead(error)}"


def _why_no_regex(cause: object) -> str:
    """Python's own reason, as one short line."""
    if isinstance(cause, RecursionError):
        return "it is nested too deep"
    reason = " ".join(str(cause).split())
    return reason if len(reason) <= _REASON else f"{reason[:_REASON]}…"


def _place(key: str, properties: Mapping[str, Any]) -> str:
    """The end of a fault about a key that stands outside of its mapping."""
    for name, schema in properties.items():
        if isinstance(schema, dict) and key in schema.get("properties", {}):
            return f"; it belongs into {name}"
    return ""


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a fault about an unknown name: which one is meant?"""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; is '{close[0]}' meant?"
    return f"; known are {', '.join(known)}" if known else ""


_TYPES: Dict[str, str] = {
    "object": "a mapping of keys to values",
    "array": "a list",
    "string": "a string",
    "boolean": "yes or no",
    "integer": "a whole number",
    "number": "a number",
    "null": "nothing",
}


def _in_words(error: jsonschema.ValidationError) -> str:
    if error.validator == "type":
        return " or ".join(_TYPES.get(n, n) for n in _types(error))
    return f"within the rule {error.validator}: {error.validator_value}"


def _types(error: jsonschema.ValidationError) -> List[str]:
    types = error.validator_value
    return [types] if isinstance(types, str) else list(map(str, types))


_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(\s*[A-Za-z]+)?")
_BOOLEAN = re.compile("yes|no|true|false|on|off", re.IGNORECASE)
# What can only be one item: a comma could be meant to separate two.
_ITEM = re.compile(r"[^\x00-\x1f,]{1,40}")


def _instead(error: jsonschema.ValidationError) -> str:
    """What to write instead of a value of another type, or what it is."""
    value = error.instance
    if error.validator != "type":
        return ""
    types = set(_types(error))
    if value is None:
        return "; it is empty"
    if isinstance(value, str):
        number = _NUMBER.fullmatch(value)
        if types & {"integer", "number"} and number:
            if number[1]:
                return "; write the number alone, without a unit"
            return "; write it without quotes"
        if "boolean" in types and _BOOLEAN.fullmatch(value):
            return "; write it without quotes"
        if "array" in types and _ITEM.fullmatch(value):
            quoted = value.replace("'", "''")
            return f"; write ['{quoted}']"
        return "; this is a string"
    if isinstance(value, list):
        # The keys of one mapping, each with a dash.
        if "object" in types and value and isinstance(value[0], dict):
            return "; write its keys without '- '"
        return "; this is a list"
    if isinstance(value, dict):
        return "; these are keys with values"
    if _Validator(error.schema).is_valid(str(value)):
        return "; put it in quotes"
    if isinstance(value, bool):
        return "; this is yes or no"
    if isinstance(value, (int, float)):
        return "" if types & {"integer", "number"} else "; this is a number"
    return "; this is a date"


def check_schema(schema: Any) -> Optional[Tuple[Steps, str]]:
    """Where and why a schema of the administrator's is none; None if it is.

    Of several faults the one that tells most.
    """
    meta = jsonschema.Draft202012Validator.META_SCHEMA
    validator = jsonschema.Draft202012Validator(meta, format_checker=_formats)
    error = jsonschema.exceptions.best_match(validator.iter_errors(schema))
    if error is None:
        return None
    steps: Steps = tuple(error.absolute_path)
    value = error.instance
    if "type" in steps[-2:] and error.validator in ("anyOf", "enum"):
        names = value if isinstance(value, list) else [value]
        name = next((n for n in names if n not in [*_TYPES]), value)
        return steps, f"'{name}' is no type{meant(str(name), _TYPES)}"
    if error.validator == "anyOf":
        return steps, "is not valid in a JSON Schema"
    if error.validator_value == ["object", "boolean"]:
        if isinstance(value, str) and value in _TYPES:
            return steps, f"must be a JSON Schema; write {{type: {value}}}"
        return steps, f"must be a JSON Schema{_instead(error)}"
    return next(_explain(error))


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
