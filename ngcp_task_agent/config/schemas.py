"""JSON Schema for configuration: every fault, in words, at its line.

A schema's ``title`` says what a value must be, and stands in the fault.
"""

from __future__ import annotations

import datetime
import difflib
import re
import shlex
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Tuple,
)

import jsonschema

from ngcp_task_agent.config import schema_references
from ngcp_task_agent.config.yaml_file import (
    FAULTY,
    Document,
    Fault,
    Steps,
    is_known,
)

Schema = Mapping[str, Any]

_REASON = 80  # characters of another's text


def _is_integer(checker: Any, value: Any) -> bool:
    """JSON Schema takes 1.0 for an integer; sizes and ports are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_regex(value: Any) -> bool:
    return not isinstance(value, str) or bool(re.compile(value))


def _is_shell_words(value: Any) -> bool:
    return not isinstance(value, str) or shlex.split(value) is not None


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
_formats.checkers["shell-words"] = (_is_shell_words, ValueError)


def check(
    document: Document, value: Any, schema: Schema, at: Steps = ()
) -> List[Fault]:
    """The faults of a value that stands in a document at these steps."""
    validator = _Validator(schema, format_checker=_formats)
    # Two missing keys are two errors that both tell of both.
    faults: Dict[Fault, None] = {}
    for error in validator.iter_errors(value):
        if error.instance is FAULTY:
            continue  # it has a fault already
        for steps, what in _explain(error):
            faults[document.fault((*at, *steps), what)] = None
    return list(faults)


def _explain(
    error: jsonschema.ValidationError,
) -> Iterator[Tuple[Steps, str]]:
    """Where and what, for a person; one error can be about several keys."""
    steps = _place_of(error)
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
        is_regex = error.validator_value == "regex"
        explain = _why_no_regex if is_regex else _why_no_words
        yield steps, explain(error.cause)
    else:
        wanted = error.schema.get("title") or _in_words(error)
        yield steps, f"must be {wanted}{_instead(error)}"


def _place_of(error: jsonschema.ValidationError) -> Steps:
    steps: Steps = tuple(error.absolute_path)
    above, rule = [None, None, *error.absolute_schema_path][-3:-1]
    if rule == "propertyNames" and above != "properties":
        return (*steps, error.instance)
    if error.validator == "not" and isinstance(error.instance, dict):
        # Of keys that exclude each other, the last is one too many.
        no = error.validator_value
        keys = no.get("required", ()) if isinstance(no, dict) else ()
        return (*steps, *[key for key in error.instance if key in keys][-1:])
    return steps


def _why_no_regex(cause: object) -> str:
    """With Python's own reason, as one short line."""
    reason = " ".join(str(cause).split())
    if isinstance(cause, RecursionError):
        reason = "it is nested too deep"
    elif len(reason) > _REASON:
        reason = f"{reason[:_REASON]}…"
    return f"must be a regular expression that Python understands: {reason}"


def _why_no_words(cause: object) -> str:
    if "escape" in str(cause):
        return "nothing follows the last backslash"
    return "a quote is not closed"


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


def check_schema(schema: Any) -> List[Tuple[Steps, str]]:
    """Where and why a schema of the administrator's is none, or no use.

    One fault for each place.
    """
    meta = jsonschema.Draft202012Validator.META_SCHEMA
    validator = jsonschema.Draft202012Validator(meta, format_checker=_formats)
    found: Dict[Steps, str] = {}
    values = dict(_walk(schema))
    for steps, value in values.items():
        if isinstance(value, datetime.date):
            found[steps] = "is a date, which JSON has not: put it in quotes"
    for error in validator.iter_errors(schema):
        if is_known(error.instance):
            steps, what = _explain_schema(error)
            found.setdefault(steps, what)
    for steps, what in schema_references.check(schema, values):
        found.setdefault(steps, what)
    return list(found.items())


def _walk(value: Any, steps: Steps = ()) -> Iterator[Tuple[Steps, Any]]:
    """All values in a value, from outside to inside."""
    yield steps, value
    inner: Iterable[Tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for step, item in inner:
        yield from _walk(item, (*steps, step))


def _explain_schema(error: jsonschema.ValidationError) -> Tuple[Steps, str]:
    error = jsonschema.exceptions.best_match([error])
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
