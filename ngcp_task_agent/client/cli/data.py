"""The value of --data: JSON on the command line, in a file, or in a pipe."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from typing import Any, NoReturn

from ngcp_task_agent.client.errors import InvalidRequest

_LARGEST = 64 << 20  # bytes; agents accept 1 MiB by default


def read_data(argument: str, timeout: float) -> Any:
    """Read the value of --data.

    :param timeout: seconds to wait for a pipe or a terminal
    :raises InvalidRequest: saying what is wrong
    """
    where = "--data"
    content = os.fsencode(argument)
    try:
        if argument == "-":
            where = "--data: standard input"
            if sys.stdin is None:
                raise InvalidRequest(f"{where} is closed")
            content = _read(sys.stdin.fileno(), where, timeout)
        elif argument.startswith("@"):
            where = f"--data: {argument[1:]}"
            # Opening a pipe must not wait for its writer.
            file = os.open(argument[1:], os.O_RDONLY | os.O_NONBLOCK)
            try:
                content = _read(file, where, timeout)
            finally:
                os.close(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{where} cannot be read: {reason}") from None
    try:
        return json.loads(content.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{where} is not UTF-8") from None
    except RecursionError:
        raise InvalidRequest(f"{where} is nested too deeply") from None
    except ValueError as error:
        hint = ""
        # It could be the name of a file, or a string without JSON's quotes.
        if where == "--data" and re.fullmatch(r"[\w./ -]{1,40}", argument):
            hint = f"; @{argument} for a file, '\"{argument}\"' for a string"
        raise InvalidRequest(f"{where} is not JSON: {error}{hint}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read(file: int, where: str, timeout: float) -> bytes:
    """Read to the end of the file."""
    deadline = time.monotonic() + timeout
    content = bytearray()
    while len(content) <= _LARGEST:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([file], [], [], left)[0]:
            raise InvalidRequest(f"{where} did not end within {timeout:g} s")
        try:
            part = os.read(file, 1 << 20)
        except BlockingIOError:
            continue
        if not part:
            return bytes(content)
        content += part
    raise InvalidRequest(f"{where} has more than {_LARGEST} bytes")
