"""What goes to standard output: the tasks' data, or a form of the outcome.

The JSON forms are described by output.schema.json, and pure ASCII, so that
no locale can spoil them.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from abc import ABC, abstractmethod
from typing import Any, Dict, List, Type

from ngcp_task_agent.client import text
from ngcp_task_agent.client.outcome import NodeOutcome, Outcome
from ngcp_task_agent.client.responses import Response, Status

_CELL = 60  # characters


class OutputError(Exception):
    """Standard output takes no more; ``errno`` is the cause's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"standard output: {error.strerror or 'cannot be written'}"
        )
        self.errno = error.errno


def write(data: bytes) -> None:
    """Write to standard output, at once.

    :raises OutputError: when that cannot be done
    """
    try:
        if sys.stdout is None:
            # It was closed from the start: a socket may have its number.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(error) from None


class Form(ABC):
    """Writes what the form shows.

    :param hold: write nothing before the end, for something else is shown on
        the same terminal until then
    """

    def __init__(self, hold: bool) -> None:
        self._hold = hold
        self._held: List[bytes] = []

    def response(self, response: Response) -> None:
        """A response has come."""
        self._put(self.of_response(response))

    def end(self, outcome: Outcome, status: str, exit_status: int) -> None:
        """Nothing more will come.

        :param status: the outcome in a word
        """
        self._hold = False
        self._held.append(self.of_outcome(outcome, status, exit_status))
        self._put(b"".join(self._held))

    def _put(self, data: bytes) -> None:
        if self._hold:
            self._held.append(data)
        elif data:
            write(data)

    def of_response(self, response: Response) -> bytes:
        return b""

    @abstractmethod
    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> bytes:
        """What stands at the end."""


class Text(Form):
    """The data of all tasks, nothing else.

    Each node's begins on a line of its own.
    """

    _line_is_open = False

    def of_response(self, response: Response) -> bytes:
        if not response.data:
            return b""
        # Half a surrogate pair, which JSON can hold, is no text.
        data = response.data.encode(errors="replace")
        begin = b"\n" if self._line_is_open else b""
        self._line_is_open = not data.endswith(b"\n")
        return begin + data

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> bytes:
        return b""


class Json(Form):
    """One object: the whole outcome."""

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> bytes:
        document = as_json(outcome, status, exit_status)
        return _line(document, indent=2)


class JsonLines(Form):
    """An object for each response as it comes, at last the outcome.

    The data is in the responses alone.
    """

    def of_response(self, response: Response) -> bytes:
        return _line(
            {
                "node": response.node,
                "status": response.status.value,
                "reason": response.reason,
                "data": response.data,
                "seconds": _rounded(response.seconds),
            }
        )

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> bytes:
        document = as_json(outcome, status, exit_status)
        for node in document["nodes"]:
            del node["data"]
        return _line(document)


class Table(Form):
    """A line for each node."""

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> bytes:
        rows = [("NODE", "STATUS", "SECONDS", "REASON OR FIRST LINE OF DATA")]
        rows += [_row(node) for node in outcome.nodes]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  "
            f"{row[2]:>{widths[2]}}  {row[3]}".rstrip()
            for row in rows
        ]
        return "".join(f"{line}\n" for line in lines).encode()


FORMS: Dict[str, Type[Form]] = {
    "text": Text,
    "json": Json,
    "jsonl": JsonLines,
    "table": Table,
}


def as_json(outcome: Outcome, status: str, exit_status: int) -> Dict[str, Any]:
    """The outcome as output.schema.json describes it."""
    request = outcome.request
    return {
        "uuid": request.uuid,
        "task": request.task,
        "src": request.src,
        "dst": request.dst,
        "status": status,
        "exit_status": exit_status,
        "seconds": _rounded(outcome.seconds),
        "expected": outcome.expected,
        "nodes": [
            {
                "node": node.node,
                "status": node.status.value,
                "reason": node.reason,
                "data": node.data,
                "accepted": _rounded(node.accepted),
                "ended": _rounded(node.ended),
            }
            for node in outcome.nodes
        ],
    }


def _line(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode() + b"\n"


def _rounded(value: Any) -> Any:
    return None if value is None else round(value, 6)


def _row(node: NodeOutcome) -> tuple[str, str, str, str]:
    more = node.reason and text.plain(node.reason)
    if not more and node.data:
        more = text.first_line(node.data, _CELL)
    status = node.status.value
    if node.status is Status.ACCEPTED:
        more = "has not ended"
    time = node.accepted if node.ended is None else node.ended
    return (
        text.plain(node.node),
        status,
        "" if time is None else f"{time:.3f}",
        more,
    )
