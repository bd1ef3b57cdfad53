"""Validates data against a JSON Schema; faults do not quote the data."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, Iterator, Mapping, Union

import jsonschema

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


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"multipleOf": _multiple_of}
)


def validator(schema: Union[bool, Mapping[str, Any]]) -> Any:
    """Build what check_data() needs, once for each schema.

    It opens no other file: a schema that refers to one is a fault.
    """
    if isinstance(schema, bool):
        return _Validator(schema)
    # With "$schema", jsonschema would switch to its own class after "$ref".
    own = {key: value for key, value in schema.items() if key != "$schema"}
    return _Validator(own)


def check_data(validator: Any, data: Any) -> None:
    """Find the first broken rule.

    Not bounded in time: ``uniqueItems`` and ``pattern`` can run forever.

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
        raise Rejected(
            f"data_schema: data does not satisfy {rule}: {value[:QUOTED_RULE]}"
        )
