"""Standard output: text, tables, JSON."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import Any, Collection, Sequence

from ngcp_task_agent import display
from ngcp_task_agent.ctl.failure import OutputError
from ngcp_task_agent.display import (
    columns,
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
    cells = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal() or os.environ.get("TERM", "dumb") in ("", "dumb"):
        heads = [heading.upper() for heading in headings]
        return columns([heads, *cells], right)
    # Imported here: loading it takes longer than asking the agent.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table()
    for number, heading in enumerate(headings):
        made.add_column(
            Text(heading),
            justify="right" if number in right else "left",
            overflow="fold",
        )
    for row in cells:
        # As Text, brackets are no markup.
        made.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(made)
    return captured.get()
