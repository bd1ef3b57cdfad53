"""Standard output: text, tables, JSON."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Collection, Sequence

from ngcp_task_agent import display
from ngcp_task_agent.ctl.failure import OutputError
from ngcp_task_agent.display import (
    encode_as_it_is,
    encode_for_terminal,
    json_line,
)
from ngcp_task_agent.logs.lines import printable

PROGRAM = "ngcp-task-agentctl"
STDOUT, STDERR = 1, 2


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def write(text: str) -> None:
    """Write to standard output.

    :raises OutputError: when it cannot be written
    """
    encode = encode_for_terminal if is_terminal() else encode_as_it_is
    try:
        display.write(sys.stdout, STDOUT, text, encode)
    except OSError as error:
        raise OutputError(error) from None


def write_json(value: Any) -> None:
    """
    :raises OutputError: when it cannot be written
    """
    write(json_line(value, indent=2))


def write_error(text: str) -> None:
    """Write to standard error; never fails."""
    # There is no other place to say it.
    with contextlib.suppress(OSError):
        display.write(sys.stderr, STDERR, text)


def say(line: str) -> None:
    """Write a line to standard error; never fails."""
    write_error(f"{PROGRAM}: {printable(line)}\n")


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
) -> str:
    """Draw a table on a terminal; elsewhere, align plain columns.

    :param rows: of cells that strangers may have chosen
    :param right: the columns aligned to the right
    """
    is_drawn = is_terminal() and not display.is_dumb()
    return display.table(headings, rows, right, is_drawn=is_drawn)
