"""The advice that faults give: whoever follows it has valid files."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from ngcp_task_agent.config.loader import Loader
from tests.unit.fakes import write

TASK = """\
name: x
backend: redis
backend_options: {control_channel: c}
broker: command
"""

_QUOTES = "; put it in quotes"
_NO_QUOTES = "; write it without quotes"
_LIST = "; write it as a list: ['...']"
_EMPTY = "; write {}"
_STRING = "; this is a string"
_SPACE = "which is not a space: write a space"

# A file, a line of it, the end of the fault, and the line as it advises; the
# same line if the advice leaves open what to write.
ADVICE = [
    ("task", "{extra_args: '[a-z'}", _STRING, "{extra_args: ['[a-z]']}"),
    ("task", "{extra_args: '[a-z]'}", _LIST, "{extra_args: ['[a-z]']}"),
    (
        "task",
        "{extra_args: [ab]+}",
        "put it in quotes",
        "{extra_args: ['[ab]+']}",
    ),
    ("task", "{extra_args: 'yes'}", _NO_QUOTES, "{extra_args: yes}"),
    ("task", "{extra_args: 5}", "a whole number", "{extra_args: ['5']}"),
    ("task", "{as_user: 1001}", "; this is a whole number", "{as_user: root}"),
    ("task", "{as_user: '1001'}", "not a number", "{as_user: root}"),
    ("task", "{as_user: yes}", _QUOTES, "{as_user: 'yes'}"),
    ("task", "{args: 10}", _QUOTES, "{args: '10'}"),
    ("task", "{args: it's}", "No closing quotation", '{args: "it\\\\\'s"}'),
    ("task", "{timeout: '30'}", _NO_QUOTES, "{timeout: 30}"),
    (
        "task",
        "{timeout: 30s}",
        "; write the number alone, without a unit",
        "{timeout: 30}",
    ),
    ("task", "{timeout: 030}", "", "{timeout: 30}"),
    ("task", "{max_output: 5.5M}", "8M", "{max_output: 8M}"),
    ("task", "{args:\u00a0x}", _SPACE, "{args: x}"),
    ("task", "{\u00a0args: x}", _SPACE, "{ args: x}"),
    (
        "task",
        "{max_otput: 8M}",
        "did you mean 'max_output'?",
        "{max_output: 8M}",
    ),
    ("backend", "tls: yes", _EMPTY, "tls: {}"),
    ("backend", "tls:", _EMPTY, "tls: {}"),
    (
        "backend",
        "tls: [ca: /a]",
        "; write its keys without '- '",
        "tls: {ca: /a}",
    ),
    ("backend", "password: 10", _QUOTES, "password: '10'"),
    (
        "backend",
        "password: !x",
        "the ! begins a string, put it in quotes",
        "password: '!x'",
    ),
    (
        "backend",
        "password: *x",
        "the * begins a string, put it in quotes",
        "password: '*x'",
    ),
    (
        "backend",
        "password: &x",
        "the & begins a string, put it in quotes",
        "password: '&x'",
    ),
    (
        "backend",
        "password: |x",
        "the | begins a string, put it in quotes",
        "password: '|x'",
    ),
    ("backend", "password: =", "put it in quotes", "password: '='"),
    ("backend", "password: x: y", "it contains a ':'", "password: 'x: y'"),
    (
        "backend",
        'password: "x" y',
        "quotes of the other kind",
        "password: '\"x\" y'",
    ),
    (
        "backend",
        'password: "\\d"',
        "is an ordinary character",
        "password: '\\d'",
    ),
    (
        "backend",
        "password: 2026-13-45",
        "put it in quotes",
        "password: '2026-13-45'",
    ),
    ("backend", "password:\u00a0x\nhost: a", _SPACE, "password: x"),
    ("backend", "\u00a0password: x", _SPACE, " password: x"),
    ("backend", "port: 70000s", _STRING, "port: 7000"),
    ("backend", "port: '7000'", _NO_QUOTES, "port: 7000"),
    ("backend", "port: '07000'", _STRING, "port: 7000"),
    (
        "backend",
        "unix_socket: 5",
        "; this is a whole number",
        "unix_socket: /5",
    ),
    ("agent", "node: yes", _EMPTY, "node: {}"),
    ("agent", "node: {roles: proxy}", _LIST, "node: {roles: ['proxy']}"),
    ("agent", "node: {roles: a b}", _STRING, "node: {roles: [a, b]}"),
    (
        "agent",
        "node: {state_command: cat /x}",
        _STRING,
        "node: {state_command: [cat, /x]}",
    ),
    ("agent", "node: {name: 5}", _QUOTES, "node: {name: '5'}"),
    (
        "agent",
        "node: {labels: {site: 5}}",
        _QUOTES,
        "node: {labels: {site: '5'}}",
    ),
    ("agent", "roles: [a]", "it belongs in node", "node: {roles: [a]}"),
    ("schema", "yes", "", "yes"),
    ("schema", "object", "; write {type: object}", "{type: object}"),
    ("schema", "{required: a}", _LIST, "{required: ['a']}"),
    (
        "schema",
        "{enum: [2026-01-31]}",
        "put it in quotes",
        "{enum: ['2026-01-31']}",
    ),
    ("schema", "{type: strin}", "did you mean 'string'?", "{type: string}"),
    ("options", "yes", "; this is yes or no", "{control_channel: c}"),
]


def faults(folder: Path, file: str, line: str) -> List[str]:
    """Load a folder with this line in it; return the faults."""
    options = line[1:] if file == "task" else "}"
    task = f"{TASK}broker_options: {{run: sh, {options}\n"
    if file == "options":
        task = task.replace("{control_channel: c}", line)
    elif file == "schema":
        task += f"data_schema: {line}\n"
    write(folder / "agent.yml", line if file == "agent" else "")
    write(folder / "backends/redis.yml", line if file == "backend" else "")
    write(folder / "tasks/x.yml", task)
    found = [str(fault) for fault in Loader(folder).load().faults]
    # A task is faulty when its backend is.
    return [fault for fault in found if "redis' cannot be used" not in fault]


@pytest.mark.parametrize(("file", "line", "what", "corrected"), ADVICE)
def test_advice_leads_to_valid_files(
    tmp_path: Path, file: str, line: str, what: str, corrected: str
) -> None:
    found = faults(tmp_path, file, line)
    assert len(found) <= 1
    assert "".join(found).endswith(what)
    assert faults(tmp_path, file, corrected) == []
