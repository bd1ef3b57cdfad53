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
from typing import Any, List, NoReturn, Optional

from ngcp_task_agent import __version__
from ngcp_task_agent.client import discovery
from ngcp_task_agent.client.cli import output
from ngcp_task_agent.client.cli.report import PROGRAM
from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.client.waiting import ANSWER_TIMEOUT, TIMEOUT, Patience
from ngcp_task_agent.config.loader import DEFAULT_DIR

_LARGEST = 64 << 20  # bytes of data; agents accept 1 MiB by default


def parser() -> argparse.ArgumentParser:
    """Build the parser, which argcomplete completes from."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run a task on the nodes of a cluster, and wait for it.",
        epilog="Exit status: 0 done, 1 a task ended in error, 2 wrong usage, "
        "3 rejected, 4 no node answered, 5 a node never ended, 69 Redis "
        "cannot be reached or refuses. See ngcp-invoke-task(1).",
        allow_abbrev=False,
    )
    add: Any = parser.add_argument
    add(
        "--task", metavar="NAME", required=True, help="the task to run"
    ).completer = _task_names
    add(
        "--dst",
        metavar="DST",
        default="localhost",
        help="the nodes to run it, such as 'prx*|state=active' "
        "(default: %(default)s)",
    )
    add(
        "--data",
        metavar="JSON",
        help="data for the task: JSON, @FILE, or - for standard input",
    ).completer = data_files
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=TIMEOUT,
        help="how long to wait at most (default: %(default)g)",
    )
    add(
        "--answer-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=ANSWER_TIMEOUT,
        help="how long to wait if no node answers at all "
        "(default: %(default)g)",
    )
    add(
        "--expect",
        metavar="N",
        type=_count,
        help="wait until N nodes have ended or rejected, and no longer",
    )
    where: Any = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--backend",
        metavar="NAME",
        help="send through this backend of the agent's configuration",
    ).completer = _backend_names
    where.add_argument(
        "--url",
        metavar="URL",
        help="send through this Redis: redis://[[USER][:PASSWORD]@]HOST[:PORT]"
        ", rediss://..., or unix:///PATH; better put the PASSWORD in "
        f"${discovery.PASSWORD_VARIABLE}, where no other user can see it",
    )
    add(
        "--channel",
        metavar="NAME",
        help="the control channel (default: the task's in the agent's "
        f"configuration, else {discovery.CONTROL_CHANNEL})",
    )
    add(
        "--config-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DIR,
        help="the agent's configuration folder (default: %(default)s)",
    )
    add(
        "--output",
        choices=tuple(output.FORMS),
        default="text",
        help="what to write to standard output (default: %(default)s, the "
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
        help="say nothing: only the exit status reports the outcome",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line, or complete it and exit.

    :returns: the options, and ``patience``, made from three of them
    """
    command_line = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(command_line)
    options = command_line.parse_args(argv)
    folder = options.config_dir
    if folder != DEFAULT_DIR and not os.path.isdir(folder):
        command_line.error(f"--config-dir: there is no folder '{folder}'")
    try:
        options.patience = Patience(
            timeout=options.timeout,
            answer_timeout=options.answer_timeout,
            expect=options.expect,
        )
    except InvalidRequest as fault:
        command_line.error(f"--{str(fault).replace('_', '-')}")
    return options


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of seconds"
        ) from None


def _count(text: str) -> int:
    # int() alone takes '1_0' and digits of other scripts.
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text[:9])


def read_data(argument: str, timeout: float) -> Any:
    """Read the value of --data.

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
            # Opening a pipe must not wait for its writer.
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
        raise InvalidRequest(f"{where} is nested too deeply") from None
    except ValueError as error:
        hint = ""
        # It could be the name of a file, or a string without JSON's quotes.
        if where == "--data" and re.fullmatch(r"[\w./ -]{1,40}", argument):
            hint = f"; @{argument} for a file, '\"{argument}\"' for a string"
        raise InvalidRequest(f"{where} is not JSON: {error}{hint}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read(file: int, where: str, timeout: float) -> bytes:
    """Read to the end of the file."""
    deadline = time.monotonic() + timeout
    content = bytearray()
    while len(content) <= _LARGEST:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([file], [], [], left)[0]:
            raise InvalidRequest(f"{where} did not end within {timeout:g} s")
        try:
            part = os.read(file, 1 << 20)
        except BlockingIOError:
            continue
        if not part:
            return bytes(content)
        content += part
    raise InvalidRequest(f"{where} has more than {_LARGEST} bytes")


def _task_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    names = {
        task.name
        for task in (config.tasks if config else ())
        if parsed_args.backend in (None, task.backend)
        and parsed_args.channel in (None, task.channel)
    }
    return sorted(names)


def _backend_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    return sorted(config.backends) if config else []


def data_files(prefix: str, **_: Any) -> List[str]:
    """Complete names of files, after an @."""
    folder, start = os.path.split(prefix[1:])
    try:
        entries = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    names = [os.path.join(folder, e) for e in entries if e.startswith(start)]
    return [
        f"@{name}{'/' if os.path.isdir(name) else ''}"
        for name in names
        if prefix.startswith("@")
    ]
