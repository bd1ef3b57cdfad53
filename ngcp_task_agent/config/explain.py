"""Explains how a value breaks a schema, in words.

The only place that puts JSON Schema errors into words.  A schema's ``title``
says what a value must be, and becomes part of the fault.

jsonschema takes several MB and long to load: import this only for faults.
"""

from __future__ import annotations

import json
import re
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Set,
    Tuple,
)

import jsonschema

from ngcp_task_agent.config.faults import (
    FAULTY,
    Finding,
    Schema,
    Steps,
    Unshown,
    meant,
)
from ngcp_task_agent.config.quick_check import FORMATS, is_integer

_LONGEST_REASON = 80  # characters of Python's message, which can quote a value


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda checker, value: is_integer(value)
    ),
)


_FORMATS = jsonschema.FormatChecker(formats=())
for _name, (_parse, _errors) in FORMATS.items():
    _FORMATS.checks(_name, _errors)(
        lambda value, parse=_parse: (
            not isinstance(value, str) or parse(value) is not None
        )
    )
_FORMAT_TITLES = {
    "regex": "a regular expression that Python understands",
    "shell-words": "words that a POSIX shell could split",
}


def _validator(schema: Schema) -> Any:
    return _Validator(schema, format_checker=_FORMATS)


def explain(value: Any, schema: Schema) -> List[Finding]:
    """List the ways in which a value breaks a schema."""
    # Two missing keys cause two errors, and each yields both findings.
    found: Dict[Finding, None] = {}
    for error in _validator(schema).iter_errors(value):
        if error.instance is not FAULTY:
            found.update(dict.fromkeys(_sentences(error)))
    return list(found)


def _sentences(error: jsonschema.ValidationError) -> Iterator[Finding]:
    steps = _place_of(error)
    if error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield steps, f"the key '{key}' is missing"
    elif error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for key in error.instance:
            if key not in known:
                inside = [n for n in known if key in _properties(known[n])]
                hint = f"; it belongs in {inside[0]}" if inside else ""
                shown = key if _NAME.fullmatch(key) else Unshown(key)
                what = f"unknown key{hint or meant(key, known)}"
                yield (*steps, shown), what
    elif error.validator == "format":
        title = _FORMAT_TITLES[error.validator_value]
        reason = " ".join(str(error.cause).split())[:_LONGEST_REASON]
        yield steps, f"must be {title}: {reason}"
    elif str(error.schema.get("$id")).startswith(_META_SCHEMA):
        yield steps, f"must be a JSON Schema{_hint(error)}"
    elif error.validator == "dependentRequired":
        for key, needed in error.validator_value.items():
            missing = [n for n in needed if n not in error.instance]
            if key in error.instance and missing:
                yield (*steps, key), f"needs the key '{missing[0]}'"
    elif _excluded(error):
        yield steps, f"give {' or '.join(_excluded(error))}, not both"
    elif error.validator == "anyOf" and _is_types(error):
        names = error.instance
        names = names if isinstance(names, list) else [names]
        unknown = [name for name in names if name not in [*_TYPES]]
        if not unknown:
            yield steps, "must be a type, or a list of different types"
        elif unknown[0] is not FAULTY:
            hint = meant(str(unknown[0]), _TYPES)
            yield steps, f"unknown type '{unknown[0]}'{hint}"
    else:
        rule = f"valid under {error.validator}: {error.validator_value}"
        if error.validator == "type":
            rule = " or ".join(_TYPES.get(n, n) for n in _types(error))
        yield steps, f"must be {error.schema.get('title', rule)}{_hint(error)}"


def _is_types(error: jsonschema.ValidationError) -> bool:
    """Whether these are the types in an administrator's JSON Schema."""
    return [None, *error.absolute_path][
        -1
    ] == "type" and "title" not in error.schema


def _place_of(error: jsonschema.ValidationError) -> Steps:
    steps: Steps = tuple(error.absolute_path)
    if [None, *error.absolute_schema_path][-2] == "propertyNames":
        return (*steps, error.instance)
    excluded = _excluded(error)
    if excluded:  # blame the last one
        last = [key for key in error.instance if key in excluded][-1]
        return (*steps, last)
    return steps


def _excluded(error: jsonschema.ValidationError) -> List[str]:
    """Return the keys of which a mapping may have only one."""
    no = error.validator_value
    is_rule = error.validator == "not" and isinstance(no, dict)
    is_rule = is_rule and isinstance(error.instance, dict)
    return list(no.get("required", ())) if is_rule else []


def _properties(schema: Any) -> Mapping[str, Any]:
    return schema.get("properties", {}) if isinstance(schema, dict) else {}


_TYPES = {
    "object": "a mapping of keys to values",
    "array": "a list",
    "string": "a string",
    "boolean": "yes or no",
    "integer": "a whole number",
    "number": "a number",
    "null": "nothing",
}


def _types(error: jsonschema.ValidationError) -> List[str]:
    types = error.validator_value
    return [types] if isinstance(types, str) else list(map(str, types))


# What describes JSON Schema itself: a data_schema has to satisfy it.
_META_SCHEMA = "https://json-schema.org/"
_SCHEMA_TYPES = {"object", "boolean"}
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?)(\s*[A-Za-z]+)?")
_BOOLEAN = re.compile("yes|no|true|false|on|off", re.IGNORECASE)
# Text that must be a single item: a comma or a space could separate two.
_ITEM = re.compile(r"[^\x00-\x1f\s,]+")
# What looks like a key's name, and not like a password.
_NAME = re.compile(r"[A-Za-z$_-]+")


def _hint(error: jsonschema.ValidationError) -> str:
    """Say what to write instead, or which type the value has.

    Advice must be right: it is given only if it makes the value valid.
    """
    if error.validator != "type":
        return "; it is empty" if error.instance == "" else ""
    value, types = error.instance, set(_types(error))
    is_type = _Validator.TYPE_CHECKER.is_type
    kinds = [words for name, words in _TYPES.items() if is_type(value, name)]
    what = f"this is {[*kinds, 'a date'][0]}"
    if value is None:
        what = "it is empty"
    if isinstance(value, float) and "integer" in types:
        return ""
    if isinstance(value, list) and "object" in types:
        # The keys of one mapping, each written with a dash.
        if value and isinstance(value[0], dict):
            what = "write its keys without '- '"
    for instead, advice in _suggestions(value, types):
        if _validator(error.schema).is_valid(instead):
            return f"; {advice}"
    return f"; {what}"


def _suggestions(value: Any, types: Set[str]) -> Iterator[Tuple[Any, str]]:
    """Yield what may be meant by a value, and how to write that."""
    if isinstance(value, str):
        number = _NUMBER.fullmatch(value)
        if number:
            unquoted = "write it without quotes"
            unit = "write the number alone, without a unit"
            yield json.loads(number[1]), unit if number[2] else unquoted
        if _BOOLEAN.fullmatch(value):
            yield True, "write it without quotes"
        if types == _SCHEMA_TYPES and value in _TYPES:
            yield {}, f"write {{type: {value}}}"
        if _ITEM.fullmatch(value):
            yield [value], "write it as a list: ['...']"
    elif not isinstance(value, (dict, list)):
        if value is None or value is True:
            yield {}, "write {}"
        if value is not None:
            yield str(value), "put it in quotes"
