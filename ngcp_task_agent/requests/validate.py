"""Validates data against a JSON Schema; faults do not quote the data."""

from __future__ import annotations

import copy
import datetime
import json
import re
from fractions import Fraction
from typing import Any, Dict, Iterator, Mapping, Union

import jsonschema

from ngcp_task_agent.config.json_schema import DATA_FORMATS, subschemas
from ngcp_task_agent.errors import Rejected

QUOTED_RULE = 200  # characters of a rule's value that a reason quotes


def _multiple_of(
    validator: Any, divisor: Any, number: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    """Check exactly, in decimals: 1.11 is a multiple of 0.01."""
    if validator.is_type(number, "number"):
        if _exact(number) % _exact(divisor):
            yield jsonschema.ValidationError("not a multiple")


def _exact(number: Union[int, float]) -> Union[int, Fraction]:
    return number if isinstance(number, int) else Fraction(repr(number))


def _unique_items(
    validator: Any, is_unique: bool, items: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    """Check in linear time, and never long without looking for signals.

    jsonschema sorts the items, or compares each with all others.
    """
    if is_unique and validator.is_type(items, "array"):
        seen = set()
        for item in map(_hashable, items):
            if item in seen:
                yield jsonschema.ValidationError("not unique")
                return
            seen.add(item)


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset((key, _hashable(v)) for key, v in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    # 1 and 1.0 are equal, but 1 and true are not.
    return (bool, value) if isinstance(value, bool) else value


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"multipleOf": _multiple_of, "uniqueItems": _unique_items},
)

# The formats mean the same everywhere: since 3.11, Python takes dates such as
# 20260131, and jsonschema does not catch all that an expression can raise.
_FORMATS = jsonschema.FormatChecker({*DATA_FORMATS} - {"date", "regex"})
_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FORMATS.checks("date", ValueError)(
    lambda value: (
        not isinstance(value, str)
        or bool(_DATE.fullmatch(value) and datetime.date.fromisoformat(value))
    )
)
_FORMATS.checks("regex", (re.error, OverflowError, RecursionError))(
    lambda value: not isinstance(value, str) or bool(re.compile(value))
)

# To Python, "$" matches before a final line feed, too.
_END = "(?!(?s:.))"
_CLASS = r"\[\^?\]?(?:\\.|[^]\\])*\]"
_COMMENT = r"\(\?#[^)]*\)"
_END_OR_OTHER = re.compile(rf"(?s:\\.|{_CLASS}|{_COMMENT}|(\$))")


def _exact_end(pattern: str) -> str:
    """Let ``$`` match at the very end only, as JSON Schema has it."""
    return _END_OR_OTHER.sub(lambda m: _END if m[1] else m[0], pattern)


class _Patterns(Dict[str, Any]):
    """``patternProperties``, which a ``$ref`` finds as they were written."""

    def __missing__(self, pattern: str) -> Any:
        exact = _exact_end(pattern)
        if exact == pattern:
            raise KeyError(pattern)
        return self[exact]


def validator(schema: Union[bool, Mapping[str, Any]]) -> Any:
    """Build what check_data() needs, once for each schema.

    It opens no other file: a schema that refers to one is a fault.
    """
    own = copy.deepcopy(schema)
    for _, inner in subschemas(own):
        # jsonschema would switch to its own class after "$ref".
        inner.pop("$schema", None)
        if isinstance(inner.get("pattern"), str):
            inner["pattern"] = _exact_end(inner["pattern"])
        if isinstance(inner.get("patternProperties"), dict):
            inner["patternProperties"] = _Patterns(
                (_exact_end(pattern), value)
                for pattern, value in inner["patternProperties"].items()
            )
    return _Validator(own, format_checker=_FORMATS)


def check_data(validator: Any, data: Any) -> None:
    """Find the first broken rule.

    Not bounded in time: a ``pattern`` can run forever.

    :raises Rejected: naming the rule
    """
    try:
        error = next(validator.iter_errors(data), None)
    except RecursionError:
        raise Rejected("data_schema: data is nested too deeply") from None
    except Exception as failed:
        raise Rejected(
            f"data_schema: cannot be checked: {type(failed).__name__}"
        ) from None
    if error is not None:
        rule = "/".join(map(str, error.absolute_schema_path))
        value = json.dumps(error.validator_value, default=str)
        value = value.replace(_END, "$")[:QUOTED_RULE]
        rule = rule.replace(_END, "$")
        raise Rejected(f"data_schema: data does not satisfy {rule}: {value}")
