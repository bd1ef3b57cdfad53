"""The command line of ngcp-invoke-task, and its completion."""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import sys
import time
from pathlib import Path
from typing import Any, List, NoReturn

from ngcp_task_agent import __version__
from ngcp_task_agent.client import discovery
from ngcp_task_agent.client.call import ANSWER_TIMEOUT, TIMEOUT
from ngcp_task_agent.client.cli import output
from ngcp_task_agent.client.cli.report import PROGRAM
from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.config.loader import DEFAULT_DIR

_LARGEST = 64 << 20  # bytes of data; agents take 1 MiB by default


def parser() -> argparse.ArgumentParser:
    """The parser; argcomplete finds in it what can be completed."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run a task on the nodes of a cluster, and wait for it.",
        epilog="Exit status: 0 done, 1 a task ended in error, 2 wrong usage, "
        "3 rejected, 4 nobody answered, 5 a node never ended, 69 Redis is "
        "not to be reached or refuses. See ngcp-invoke-task(1).",
        allow_abbrev=False,
    )
    _complete(
        parser.add_argument(
            "--task", metavar="NAME", required=True, help="the task to run"
        ),
        _task_names,
    )
    parser.add_argument(
        "--dst",
        metavar="DST",
        default="localhost",
        help="the nodes that are to run it, such as 'prx*|state=active' "
        "(default: %(default)s)",
    )
    _complete(
        parser.add_argument(
            "--data",
            metavar="JSON",
            help="what the task is given: JSON, @FILE, or - for standard "
            "input",
        ),
        _data_files,
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=TIMEOUT,
        help="how long to wait at most (default: %(default)g)",
    )
    parser.add_argument(
        "--answer-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=ANSWER_TIMEOUT,
        help="how long to wait when no node has answered at all "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--expect",
        metavar="N",
        type=_count,
        help="wait until N nodes have ended or rejected, and no longer",
    )
    where = parser.add_mutually_exclusive_group()
    _complete(
        where.add_argument(
            "--backend",
            metavar="NAME",
            help="send through this backend of the agent's configuration",
        ),
        _backend_names,
    )
    where.add_argument(
        "--url",
        metavar="URL",
        help="send through this Redis: redis://[[USER][:PASSWORD]@]HOST[:PORT]"
        ", rediss://..., or unix:///PATH; better the PASSWORD is in "
        f"${discovery.PASSWORD}, where no other user can see it",
    )
    parser.add_argument(
        "--channel",
        metavar="NAME",
        help="the control channel (default: the task's in the agent's "
        f"configuration, else {discovery.CONTROL_CHANNEL})",
    )
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DIR,
        help="folder of the agent's configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        choices=tuple(output.FORMS),
        default="text",
        help="what to write to standard output (default: %(default)s: the "
        "tasks' data)",
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say how Redis was found, the request's uuid, and what every "
        "node answers",
    )
    loudness.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="say nothing: the exit status tells",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    return parser


def parse(argv: Any) -> argparse.Namespace:
    """Read the command line, or complete it and exit."""
    command_line = parser()
    if "_ARGCOMPLETE" in os.environ:
        _do_complete(command_line)
    options = command_line.parse_args(argv)
    folder = options.config_dir
    if folder != DEFAULT_DIR and not os.path.isdir(folder):
        command_line.error(f"--config-dir: there is no folder '{folder}'")
    return options


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e8:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of seconds greater than 0"
        )
    return value


def _count(text: str) -> int:
    # Not int(): it takes '1_0' and digits of other scripts.
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9])):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1")
    return int(text[:9])


def read_data(argument: str, timeout: float) -> Any:
    """The value of --data.

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
            # A pipe without a writer must not hold up the opening.
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
        raise InvalidRequest(f"{where} is nested too deep") from None
    except ValueError as error:
        hint = ""
        # The name of a file, or a text, without what JSON wants.
        if where == "--data" and re.fullmatch(r"[\w./ -]{1,40}", argument):
            hint = f"; @{argument} for a file, '\"{argument}\"' for a text"
        raise InvalidRequest(f"{where} is not JSON: {error}{hint}") from None


def _read(file: int, where: str, timeout: float) -> bytes:
    """Read to the end."""
    deadline = time.monotonic() + timeout
    content = bytearray()
    while True:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([file], [], [], left)[0]:
            raise InvalidRequest(f"{where} has not ended in {timeout:g} s")
        try:
            part = os.read(file, 1 << 20)
        except BlockingIOError:
            continue
        if not part:
            return bytes(content)
        content += part
        if len(content) > _LARGEST:
            raise InvalidRequest(f"{where} has more than {_LARGEST} bytes")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _complete(action: argparse.Action, completer: Any) -> None:
    """Where argcomplete looks for it."""
    action.completer = completer  # type: ignore[attr-defined]


def _do_complete(command_line: argparse.ArgumentParser) -> None:
    try:
        import argcomplete
    except ImportError:
        sys.exit(1)
    argcomplete.autocomplete(command_line)


def _task_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    if not config:
        return []
    return sorted(
        {
            task.name
            for task in config.tasks
            if parsed_args.backend in (None, task.backend)
            and parsed_args.channel in (None, task.channel)
        }
    )


def _backend_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    return sorted(config.backends) if config else []


def _data_files(prefix: str, **_: Any) -> List[str]:
    """Files, after an @."""
    if not prefix.startswith("@"):
        return []
    folder, _slash, start = prefix[1:].rpartition("/")
    base = f"{folder}{_slash}"
    try:
        entries = sorted(os.scandir(base or "."), key=lambda e: e.name)
    except OSError:
        return []
    return [
        f"@{base}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(start)
    ]
