"""Standard output: the tasks' data, or the outcome in one of several forms.

output.schema.json describes the JSON forms.  They are pure ASCII, so that no
locale can spoil them.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Union

from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.outcome import NodeOutcome, RequestOutcome
from ngcp_task_agent.client.progress import LiveLine
from ngcp_task_agent.client.responses import ReceivedResponse, Status
from ngcp_task_agent.display import columns, json_line
from ngcp_task_agent.logs.lines import printable

_CELL = 60  # characters


class Form:
    """The text to write at each response or live line, and at the end."""

    def response(self, response: ReceivedResponse) -> str:
        return ""

    def line(self, line: LiveLine) -> str:
        return ""

    def end(self, document: Dict[str, Any]) -> str:
        """
        :param document: the outcome, from as_json()
        """
        return ""


class Text(Form):
    """The data of all tasks; each node's begins on a new line."""

    _line_is_open = False

    def response(self, response: ReceivedResponse) -> str:
        if not response.data:
            return ""
        begin = "\n" if self._line_is_open else ""
        self._line_is_open = not response.data.endswith("\n")
        return begin + response.data


class Json(Form):
    """One object: the whole outcome."""

    def end(self, document: Dict[str, Any]) -> str:
        return json_line(document, indent=2)


class JsonLines(Form):
    """An object for each response as it arrives, and one for the outcome.

    Only the responses include the data.
    """

    def response(self, response: ReceivedResponse) -> str:
        return json_line(fields(response))

    def line(self, line: LiveLine) -> str:
        return json_line(line._asdict())

    def end(self, document: Dict[str, Any]) -> str:
        for node in document["nodes"]:
            del node["data"]
        return json_line(document)


class Table(Form):
    """A line for each node."""

    def end(self, document: Dict[str, Any]) -> str:
        rows = [("NODE", "STATUS", "SECONDS", "REASON OR FIRST LINE OF DATA")]
        rows += map(_row, document["nodes"])
        return columns(rows, right=(2,))


def _row(node: Dict[str, Any]) -> Tuple[str, str, str, str]:
    if node["ended"] is None:
        time, more = node["accepted"], "has not ended"
    else:
        time, more = node["ended"], printable(node["reason"])
    if not more and node["data"]:
        more = text.first_line(node["data"], _CELL)
    return printable(node["node"]), node["status"], f"{time:.3f}", more


def as_json(
    outcome: RequestOutcome, status: str, exit_status: int
) -> Dict[str, Any]:
    """Return the outcome as output.schema.json describes it."""
    request = outcome.request
    return {
        "uuid": request.uuid,
        "task": request.task,
        "src": request.src,
        "dst": request.dst,
        "status": status,
        "exit_status": exit_status,
        "seconds": round(outcome.seconds, 6),
        "expected": outcome.expected,
        "missing": list(outcome.missing_nodes),
        "nodes": list(map(fields, outcome.nodes)),
    }


def fields(
    item: Union[NodeOutcome, ReceivedResponse],
) -> Dict[str, Any]:
    """Return the fields, whose names are those in output.schema.json."""
    return {
        name: value.value
        if isinstance(value, Status)
        else round(value, 6)
        if isinstance(value, float)
        else value
        for name, value in vars(item).items()
    }
