"""The command line of ngcp-task-agentctl, and its completion."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Optional, TypeVar

from ngcp_task_agent import __version__
from ngcp_task_agent.config.loader import DEFAULT_DIR
from ngcp_task_agent.ctl import complete, since
from ngcp_task_agent.ctl.log import service_user
from ngcp_task_agent.ctl.output import PROGRAM

T = TypeVar("T")

COMMANDS = {
    "status": "show the running agent: node, backends, tasks, requests",
    "tasks": "list the tasks of the running agent",
    "jobs": "list the requests that run or wait",
    "cancel": "end a request that runs or waits",
    "reload": "make the running agent read its configuration again",
    "check": "find what is wrong with the configuration",
    "log": "show what the journal says about requests",
}


def parser() -> argparse.ArgumentParser:
    """Build the parser, which argcomplete completes from."""
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look at the agent of this node, and manage it.",
        epilog="Exit status: 0 all went well, 1 it failed, 2 wrong usage, 74 "
        "standard output cannot be written, 77 not allowed, 78 the "
        "configuration has faults. See ngcp-task-agentctl(1).",
        allow_abbrev=False,
    )
    made.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = made.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    parsers = {
        name: commands.add_parser(
            name, help=text, description=_sentence(text), allow_abbrev=False
        )
        for name, text in COMMANDS.items()
    }
    for name, one in parsers.items():
        one.set_defaults(parser=one)
        if name not in ("cancel", "reload"):
            one.add_argument("--json", action="store_true", help="write JSON")
    _add_uuid(parsers["cancel"], "the request's uuid")
    _add_check(parsers["check"])
    _add_log(parsers["log"])
    return made


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _add_uuid(to: argparse.ArgumentParser, text: str, **more: Any) -> None:
    argument: Any = to.add_argument("uuid", metavar="UUID", help=text, **more)
    argument.completer = complete.uuids


def _add_check(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="check this file as if it was part of the configuration",
    )
    to.add_argument(
        "--config-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DIR,
        help="the agent's configuration folder (default: %(default)s)",
    )


def _add_log(to: argparse.ArgumentParser) -> None:
    _add_uuid(to, "only this request", nargs="?")
    task: Any = to.add_argument(
        "--task", metavar="NAME", help="only requests for this task"
    )
    task.completer = complete.tasks
    to.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="show the last records, and further ones as they come",
    )
    to.add_argument(
        "--since",
        metavar="TIME",
        type=_checked(lambda text: since.parse(text, time.time())),
        help=f"only records since then: {since.FORMS}",
    )
    to.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        help="read the journal files in this folder",
    )
    to.add_argument(
        "--service-user",
        metavar="USER",
        type=_checked(service_user),
        default=0,
        help="whom the service runs as, if not as root",
    )


def _checked(read: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse show the text of a ValueError."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as fault:
            raise argparse.ArgumentTypeError(str(fault)) from None

    return checked


def parse(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line, or complete it and exit."""
    made = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(made)
    words = sys.argv[1:] if argv is None else argv
    options, unknown = made.parse_known_args(_with_values(words))
    if unknown:  # for which argparse would show the usage of all commands
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _with_values(words: List[str]) -> List[str]:
    """Join --since and a value such as -1h, which looks like an option."""
    joined: List[str] = []
    for word in words:
        if joined and joined[-1] == "--since" and word[:1] == "-":
            joined[-1] = f"--since={word}"
        else:
            joined.append(word)
    return joined
