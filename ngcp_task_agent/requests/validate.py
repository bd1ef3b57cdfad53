"""Data against a JSON Schema: the first fault, without the data itself.

Also a program, which the agent starts for large data: it reads an object of
``schema`` and ``data`` from standard input, and writes the fault, if any.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Mapping

import jsonschema

from ngcp_task_agent.errors import Rejected

_RULE = 200  # characters of a rule's value that a reason repeats


def validator(schema: Mapping[str, Any]) -> Any:
    """What check() asks, made once for each schema.

    It never looks elsewhere: such references are a fault of the file.
    """
    return jsonschema.Draft202012Validator(schema)


def check(validator: Any, data: Any) -> None:
    """Check data.

    Not bounded in time: ``uniqueItems`` and ``pattern`` can take for ever.

    :raises Rejected: naming the first rule that is broken
    """
    try:
        error = next(validator.iter_errors(data), None)
    except RecursionError:
        raise Rejected("data_schema: data is nested too deep") from None
    except Exception as failed:
        # Such as numbers that multipleOf cannot divide.
        raise Rejected(
            f"data_schema: cannot be checked: {type(failed).__name__}"
        ) from None
    if error is not None:
        rule = "/".join(map(str, error.absolute_schema_path))
        value = json.dumps(error.validator_value, default=str)
        raise Rejected(
            f"data_schema: data does not satisfy {rule}: {value[:_RULE]}"
        )


def _main() -> None:
    given = json.load(sys.stdin)
    try:
        check(validator(given["schema"]), given["data"])
    except Rejected as fault:
        # Half of a surrogate pair, which a schema can hold, is no UTF-8.
        sys.stdout.buffer.write(str(fault).encode(errors="replace"))


if __name__ == "__main__":
    _main()
