"""Live output: what a task writes, line by line, while it runs."""

from __future__ import annotations

from typing import NamedTuple


class LiveLine(NamedTuple):
    """A line of a task's output.

    :ivar node: the name of the node
    :ivar stream: ``stdout`` or ``stderr``
    :ivar text: without the newline
    :ivar omitted: how many bytes were left out before it
    """

    node: str
    stream: str
    text: str
    omitted: int = 0
