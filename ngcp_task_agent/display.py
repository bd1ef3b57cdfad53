"""Text for people, on a terminal or in a file.

What strangers choose goes through lines.printable() first, or through
for_terminal() at the end: it must not control the terminal.
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import (
    Any,
    Callable,
    Collection,
    List,
    Mapping,
    Optional,
    Sequence,
    TextIO,
    Tuple,
    Union,
)

from ngcp_task_agent.logs.handlers import write_all
from ngcp_task_agent.logs.lines import printable

_MOST_DRAWN = 500  # rows: more take seconds
_FOLDED = 20  # characters that the widest column of a table gets at least

# Fast; its false positives are text that printable() does not change.
_SUSPECT = re.compile(r"[^\n\t -~]+")


def in_order(name: str) -> List[Tuple[int, Union[int, str]]]:
    """Return a key to sort names by, with numbers in their own order."""
    parts = re.findall(r"([0-9]{1,9})|([^0-9]+)", name.lower())
    return [(0, int(n)) if n else (1, word) for n, word in parts]


def for_terminal(text: str) -> str:
    """Escape all that is not printable, but keep line feeds and tabs."""
    return _SUSPECT.sub(lambda found: printable(found[0]), text)


def encode_for_terminal(text: str) -> bytes:
    return for_terminal(text).encode()


def encode_as_it_is(text: str) -> bytes:
    # Half a surrogate pair, which JSON can hold, cannot be encoded.
    return text.encode(errors="replace")


def write(
    stream: Optional[TextIO],
    fd: int,
    text: str,
    encode: Optional[Callable[[str], bytes]] = None,
) -> None:
    """Write to a standard stream, past its buffer.

    At exit Python would write what is left in the buffer, and report its own
    error.

    :param encode: by default, into the stream's encoding
    :raises OSError: when it cannot be written
    """
    if not text:
        return
    if stream is None:
        # It was closed when Python started; another file may have its number.
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if encode is None:
        data = text.encode(stream.encoding, "backslashreplace")
    else:
        data = encode(text)
    write_all(fd, data)


def json_line(value: Any, **options: Any) -> str:
    """Return JSON that no locale and no terminal can spoil."""
    # The only unprintable character that json.dumps() leaves.
    return json.dumps(value, **options).replace("\x7f", r"\u007f") + "\n"


def seconds(value: float) -> str:
    """Format a duration, with more digits for a short one."""
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def span(value: float) -> str:
    """Format a duration in seconds, coarser for a long one."""
    minutes = int(value) // 60
    if minutes < 2:
        return f"{max(0, int(value))} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"


def is_dumb() -> bool:
    """Whether the terminal, if there is one, shows plain text only."""
    return os.environ.get("TERM", "dumb") in ("", "dumb")


def counted(number: int, noun: str) -> str:
    """Format a count, such as ``1 task`` or ``2 tasks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Align rows of cells, which are printable, in columns.

    :param rows: at least one, each with as many cells
    :param right: the columns aligned to the right
    """
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    lines: List[str] = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def facts(named: Mapping[str, str]) -> str:
    """Return a line for each fact that is not empty."""
    width = max(map(len, named)) + 1
    return "".join(
        f"{name + ':':<{width}} {printable(fact)}\n"
        for name, fact in named.items()
        if fact
    )


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    *,
    is_drawn: bool,
) -> str:
    """Align cells in columns, which have lines between them if drawn.

    :param rows: of cells that strangers may have chosen
    :param right: the columns aligned to the right
    :param is_drawn: for the terminal; where it is too narrow, each row is a
        list instead, and very many rows are only aligned
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not is_drawn or len(rows) > _MOST_DRAWN:
        heads = [heading.upper() for heading in headings]
        return columns([heads, *cells], right)
    # Imported here: loading it takes longer than asking the agent.
    import shutil

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    widths = [max(map(len, column)) for column in zip(headings, *cells)]
    widest = widths.index(max(widths))
    # Folded between words only: a part of a uuid cannot be copied.
    words = (len(word) for row in cells for word in row[widest].split())
    least = max([_FOLDED, *words])
    widths[widest] = min(widths[widest], least)
    if sum(widths) + 3 * len(widths) + 1 > width:
        lists = [facts(dict(zip(headings, row))) for row in cells]
        return "\n".join(lists)
    made = Table()
    for number, heading in enumerate(headings):
        made.add_column(
            Text(heading),
            justify="right" if number in right else "left",
            no_wrap=number != widest,
            overflow="fold",
        )
    for row in cells:
        # As Text, brackets are no markup.
        made.add_row(*map(Text, row))
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(made)
    return captured.get()
