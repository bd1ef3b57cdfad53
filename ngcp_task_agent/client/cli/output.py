"""What goes to standard output: the tasks' data, or a form of the outcome.

The JSON forms are described by output.schema.json, and pure ASCII, so that
no locale can spoil them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, List, Type

from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.writer import Writer
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


class Output:
    """Standard output, as far as it is written by this client.

    :param writer: writes there; perhaps other things too
    :param is_terminal: a terminal gets nothing that could steer it; else
        what is written is exact
    """

    def __init__(self, writer: Writer, is_terminal: bool) -> None:
        self._writer = writer
        self._encode = _for_terminal if is_terminal else _exactly
        self._is_used = False

    def write(self, text: str) -> None:
        """Write as soon as it can be done.

        :raises OutputError: when nothing can be written any more
        """
        try:
            self._writer.put(text, self._encode)
        except OSError as error:
            raise OutputError(error) from None
        self._is_used |= bool(text)

    async def end(self, patience: float) -> None:
        """Wait until all is written.

        :param patience: seconds in which anything must have been read
        :raises OutputError: when it cannot be written, or is not read
        """
        if not self._is_used:
            return
        try:
            if not await self._writer.written(patience):
                reason = f"nobody has read it for {patience:g} s"
                raise OSError(errno.ETIMEDOUT, reason)
        except OSError as error:
            raise OutputError(error) from None

    def on_error(self, act: Callable[[], None]) -> None:
        """Have the loop call this when what was to be written cannot be."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if self._is_used:
                act()

        def tell_from_thread() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell)

        self._writer.on_error = tell_from_thread

    def check(self) -> None:
        """
        :raises OutputError: when writing has failed
        """
        if self._is_used and self._writer.error:
            raise OutputError(self._writer.error)


def _for_terminal(shown: str) -> bytes:
    return text.for_terminal(shown).encode()


def _exactly(text: str) -> bytes:
    # Half a surrogate pair, which JSON can hold, is no text.
    return text.encode(errors="replace")


class Form(ABC):
    """Writes what the form shows.

    :param write: takes the text
    :param hold: write nothing before the end, for something else is shown on
        the same terminal until then
    """

    def __init__(self, write: Callable[[str], None], hold: bool) -> None:
        self._write = write
        self._hold = hold
        self._held: List[str] = []

    def response(self, response: Response) -> None:
        """A response has come."""
        self._put(self.of_response(response))

    def end(self, outcome: Outcome, status: str, exit_status: int) -> None:
        """Nothing more will come.

        :param status: the outcome in a word
        """
        self._hold = False
        self._held.append(self.of_outcome(outcome, status, exit_status))
        for shown in self._held:
            self._put(shown)

    def _put(self, shown: str) -> None:
        if self._hold:
            self._held.append(shown)
        else:
            self._write(shown)

    def of_response(self, response: Response) -> str:
        return ""

    @abstractmethod
    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> str:
        """What stands at the end."""


class Text(Form):
    """The data of all tasks, nothing else.

    Each node's begins on a line of its own.
    """

    _line_is_open = False

    def of_response(self, response: Response) -> str:
        if not response.data:
            return ""
        begin = "\n" if self._line_is_open else ""
        self._line_is_open = not response.data.endswith("\n")
        return begin + response.data

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> str:
        return ""


class Json(Form):
    """One object: the whole outcome."""

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> str:
        document = as_json(outcome, status, exit_status)
        return _line(document, indent=2)


class JsonLines(Form):
    """An object for each response as it comes, at last the outcome.

    The data is in the responses alone.
    """

    def of_response(self, response: Response) -> str:
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
    ) -> str:
        document = as_json(outcome, status, exit_status)
        for node in document["nodes"]:
            del node["data"]
        return _line(document)


class Table(Form):
    """A line for each node."""

    def of_outcome(
        self, outcome: Outcome, status: str, exit_status: int
    ) -> str:
        rows = [("NODE", "STATUS", "SECONDS", "REASON OR FIRST LINE OF DATA")]
        rows += [_row(node) for node in outcome.nodes]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  "
            f"{row[2]:>{widths[2]}}  {row[3]}".rstrip()
            for row in rows
        ]
        return "".join(f"{line}\n" for line in lines)


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


def _line(value: Any, **options: Any) -> str:
    # All that json.dumps() leaves and is not to be printed.
    return json.dumps(value, **options).replace("\x7f", r"\u007f") + "\n"


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
