"""Sizes in bytes, as the configuration writes them: ``65536``, ``8M``."""

from __future__ import annotations

import re
from typing import Any, Dict, Union

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})([KMG]?)")

#: JSON Schema of a size; its title describes a valid one.
SIZE_SCHEMA: Dict[str, Any] = {
    "type": ["integer", "string"],
    "pattern": rf"^{_SIZE.pattern}\Z",
    "minimum": 0,
    "title": "a size in bytes such as 65536, 512K or 8M",
}


def parse_size(size: Union[int, str]) -> int:
    """Parse a size that satisfies the schema; return bytes."""
    if isinstance(size, int):
        return size
    number, unit = _SIZE.fullmatch(size).groups()  # type: ignore[union-attr]
    return int(number) * _FACTORS[unit]
