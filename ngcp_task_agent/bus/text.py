"""Strings as the bus takes them."""

from __future__ import annotations

import re
from typing import Any

# What no string on the bus may contain; one costs the connection.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


class _Text(str):
    """A string that dbus-fast 1.84 sends whole.

    It announces the number of characters, not of bytes, and the bus
    disconnects who announces too few.
    """

    def __len__(self) -> int:
        return len(self.encode())


def sendable(value: Any) -> Any:
    """Return a body, or a part of one, with strings that can be sent."""
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return _Text(_UNUSABLE.sub("\ufffd", value))
    if isinstance(value, (list, tuple)):
        return [sendable(part) for part in value]
    if isinstance(value, dict):
        return {sendable(k): sendable(v) for k, v in value.items()}
    if hasattr(value, "signature") and hasattr(value, "value"):
        value.value = sendable(value.value)  # a Variant
    return value
