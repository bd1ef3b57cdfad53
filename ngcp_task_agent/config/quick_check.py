"""Decides quickly whether a value satisfies a schema.

jsonschema takes long to load, and longer than all else to validate a file.
Most files have no fault, so only those of the others need it: explain.py.
"""

from __future__ import annotations

import re
import shlex
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ngcp_task_agent.config.faults import Schema

_Check = Callable[[Any], bool]

#: The formats of strings that are checked: what parses such a string, and what
#: that raises for any other.
FORMATS: Mapping[str, Tuple[Callable[[str], Any], Any]] = {
    # What "a{9999999999}" and 5,000 brackets raise.
    "regex": (re.compile, (re.error, OverflowError, RecursionError)),
    "shell-words": (shlex.split, ValueError),
}

# By the schema's id.  The schema is kept too, so that no other gets its id.
_checks: Dict[int, Tuple[Schema, Optional[_Check]]] = {}


def is_surely_valid(value: Any, schema: Schema) -> bool:
    """Whether a value satisfies a schema.

    :returns: also False for a schema with any keyword that is not known here
    """
    kept = _checks.get(id(schema))
    if not kept:
        kept = _checks[id(schema)] = schema, _checker(schema)
    check = kept[1]
    return check is not None and check(value)


def is_integer(value: Any) -> bool:
    """Reject 1.0, which JSON Schema accepts as an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def _checker(schema: Schema) -> Optional[_Check]:
    try:
        return _all_of(schema)
    except Exception:
        # A plugin's schema with other keywords, or other uses of them.
        return None


def _all_of(schema: Any) -> _Check:
    if isinstance(schema, bool):
        return lambda value: schema
    rules = dict(schema)
    rules.pop("title", None)
    checks: List[_Check] = []
    if "additionalProperties" in rules:
        known = rules.get("properties", {})
        checks.append(_others(rules.pop("additionalProperties"), known))
    checks += [_KEYWORDS[keyword](rule) for keyword, rule in rules.items()]

    def check(value: Any) -> bool:
        for each in checks:
            if not each(value):
                return False
        return True

    return checks[0] if len(checks) == 1 else check


def _others(rule: Any, known: Mapping[str, Any]) -> _Check:
    """Check the values of keys that ``properties`` does not name."""
    if rule is False:
        names = frozenset(known)
        return _for(dict, lambda value: value.keys() <= names)
    check = _all_of(rule)
    return _for(
        dict,
        lambda value: all(
            check(item) for key, item in value.items() if key not in known
        ),
    )


def _properties(rule: Mapping[str, Any]) -> _Check:
    checks = {key: _all_of(schema) for key, schema in rule.items()}

    def check(value: Any) -> bool:
        for key, item in value.items():
            if key in checks and not checks[key](item):
                return False
        return True

    return _for(dict, check)


def _for(kind: Any, check: _Check) -> _Check:
    """Let values of all other types pass."""
    return lambda value: not isinstance(value, kind) or check(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: Mapping[str, _Check] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": is_integer,
    "number": _is_number,
    "null": lambda value: value is None,
}


def _type(rule: Any) -> _Check:
    if isinstance(rule, str):
        return _TYPES[rule]
    checks = [_TYPES[name] for name in rule]
    return lambda value: any(check(value) for check in checks)


def _enum(rule: List[Any]) -> _Check:
    # Values of other types are equal in JSON Schema's own way.
    if not all(isinstance(one, str) for one in rule):
        raise ValueError("not only strings")
    return lambda value: isinstance(value, str) and value in rule


def _format(rule: str) -> _Check:
    if rule not in FORMATS:
        return lambda value: True
    parse, errors = FORMATS[rule]

    def check(value: str) -> bool:
        try:
            parse(value)
        except errors:
            return False
        return True

    return _for(str, check)


def _pattern(rule: str) -> _Check:
    search = re.compile(rule).search
    return _for(str, lambda value: search(value) is not None)


def _items(rule: Any) -> _Check:
    check = _all_of(rule)
    return _for(list, lambda value: all(map(check, value)))


def _property_names(rule: Any) -> _Check:
    check = _all_of(rule)
    return _for(dict, lambda value: all(map(check, value)))


def _each(rule: List[Any]) -> _Check:
    checks = [_all_of(schema) for schema in rule]
    return lambda value: all(check(value) for check in checks)


def _not(rule: Any) -> _Check:
    check = _all_of(rule)
    return lambda value: not check(value)


def _required(rule: List[str]) -> _Check:
    names = frozenset(rule)
    return _for(dict, lambda value: names <= value.keys())


def _dependent(rule: Mapping[str, List[str]]) -> _Check:
    return _for(
        dict,
        lambda value: all(
            needed in value
            for key, all_needed in rule.items()
            if key in value
            for needed in all_needed
        ),
    )


_KEYWORDS: Mapping[str, Callable[[Any], _Check]] = {
    "allOf": _each,
    "dependentRequired": _dependent,
    "enum": _enum,
    "format": _format,
    "items": _items,
    "maxLength": lambda n: _for(str, lambda value: len(value) <= n),
    "maximum": lambda n: lambda value: not _is_number(value) or value <= n,
    "minItems": lambda n: _for(list, lambda value: len(value) >= n),
    "minLength": lambda n: _for(str, lambda value: len(value) >= n),
    "minimum": lambda n: lambda value: not _is_number(value) or value >= n,
    "not": _not,
    "pattern": _pattern,
    "properties": _properties,
    "propertyNames": _property_names,
    "required": _required,
    "type": _type,
}
