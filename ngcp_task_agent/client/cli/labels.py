"""Whose output is it: the forms of text that name the nodes."""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any, Dict, List, Tuple, Type

from ngcp_task_agent.client.cli import text
from ngcp_task_agent.client.cli.output import (
    Form,
    Json,
    JsonLines,
    Table,
    Text,
)
from ngcp_task_agent.client.progress import LiveLine
from ngcp_task_agent.client.responses import ReceivedResponse
from ngcp_task_agent.display import in_order
from ngcp_task_agent.logs.lines import printable


class Labelled(Form):
    """The node's name before each line of its data."""

    def response(self, response: ReceivedResponse) -> str:
        return labelled(response.node, response.data or "")


class Followed(Form):
    """All output as it comes, each line with the node's name before it."""

    def line(self, line: LiveLine) -> str:
        gap = ""
        if line.omitted:
            label = printable(line.node)
            gap = f"{label}: … {line.omitted} bytes left out\n"
            if not line.text:
                return gap
        return gap + labelled(line.node, f"{line.text}\n")


def labelled(node: str, data: str) -> str:
    """Return the lines of data, each with the node's name before it."""
    if not data:
        return ""
    label = f"{printable(node)}: "
    if data.endswith("\n"):
        data = data[:-1]
    return label + data.replace("\n", f"\n{label}") + "\n"


class Headed(Form):
    """A heading before each node's data, if there are several nodes.

    What the first node sends is held until another one answers.

    :param is_alone: whether it may be the only one
    """

    def __init__(self, is_alone: bool = True) -> None:
        self._first = ""  # node
        self._is_alone = is_alone
        self._held = ""
        self._is_begun = False

    def response(self, response: ReceivedResponse) -> str:
        shown = ""
        self._first = self._first or response.node
        if self._is_alone and response.node != self._first:
            self._is_alone = False
            shown = self._under_heading(self._first, self._held)
            self._held = ""
        data = response.data or ""
        if self._is_alone:
            self._held += data
            return ""
        return shown + self._under_heading(response.node, data)

    def end(self, document: Dict[str, Any]) -> str:
        return self._held

    def _under_heading(self, node: str, data: str) -> str:
        if not data:
            return ""
        space = "\n" if self._is_begun else ""
        self._is_begun = True
        return f"{space}{printable(node)}:\n{_whole_lines(data)}"


class Gathered(Form):
    """The nodes with the same output together, the largest group first."""

    def end(self, document: Dict[str, Any]) -> str:
        groups: Dict[Tuple[str, str], List[str]] = defaultdict(list)
        for node in document["nodes"]:
            groups[_summary(node), node["data"] or ""].append(node["node"])
        if document["missing"]:
            groups[text.NO_ANSWER, ""] += document["missing"]
        return "\n".join(
            f"{_heading(nodes)}:{summary and ' ' + summary}\n"
            f"{_whole_lines(data)}"
            for (summary, data), nodes in sorted(
                groups.items(), key=lambda group: -len(group[1])
            )
        )


def _summary(node: Dict[str, Any]) -> str:
    """Say what there is to say besides the data."""
    if node["ended"] is None:
        return "has not ended"
    if node["status"] == "done":
        return "" if node["data"] else "no output"
    reason = printable(node["reason"])
    return f"{node['status']}: {reason}" if reason else node["status"]


def _heading(nodes: List[str]) -> str:
    count = f" ({len(nodes)})" if len(nodes) > 1 else ""
    return text.listed(sorted(nodes, key=in_order)) + count


def _whole_lines(data: str) -> str:
    return data if data.endswith("\n") or not data else data + "\n"


#: By the value of --output.
FORMS: Dict[str, Type[Form]] = {
    "text": Text,
    "gathered": Gathered,
    "json": Json,
    "jsonl": JsonLines,
    "table": Table,
}


def choose(options: argparse.Namespace, is_drawn: bool) -> Form:
    """
    :param is_drawn: standard output is a terminal
    """
    if options.output == "text":
        if options.follow:
            return Followed()
        if options.label:
            return Labelled()
        if is_drawn:
            return Headed()
    return FORMS[options.output]()
