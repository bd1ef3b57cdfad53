"""The command line of ngcp-invoke-task, and its completion."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Iterable, List, Optional, Union

from ngcp_task_agent import __version__
from ngcp_task_agent.client import discovery
from ngcp_task_agent.client.cli import labels
from ngcp_task_agent.client.cli.report import PROGRAM
from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.client.waiting import ANSWER_TIMEOUT, TIMEOUT, Patience
from ngcp_task_agent.config.loader import DEFAULT_DIR

#: Options that ask the agents themselves, instead of running a task.
FLEET = ("nodes", "tasks", "jobs", "cancel")
#: Options that make a rolling run of it.
ROLLING = ("batch", "max_failures", "pause", "limit")
_LONGEST_PAUSE = 1e6  # seconds
# Options that make sense only for one task on all nodes at once.
_ONCE = ("expect", "label", "follow")


def parser() -> argparse.ArgumentParser:
    """Build the parser, which argcomplete completes from."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s [options] TASK | --nodes | --tasks | --jobs | "
        "--cancel UUID",
        description="Run a task on the nodes of a cluster, and wait for it; "
        "or list nodes, tasks and what runs, or end it.",
        epilog="Exit status: 0 done, 1 a task ended in error or there was "
        "nothing to cancel, 2 wrong usage, 3 rejected, 4 no node answered, 5 "
        "a node is missing or never ended, 69 Redis cannot be reached or "
        "refuses. See ngcp-invoke-task(1).",
        allow_abbrev=False,
    )
    _add_actions(parser)
    _add_request(parser)
    _add_waiting(parser)
    _add_rolling(parser)
    _add_address(parser)
    _add_output(parser)
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    return parser


def _add_actions(to: argparse.ArgumentParser) -> None:
    to.add_argument("name", metavar="TASK", nargs="?", help="the task to run")
    one = to.add_mutually_exclusive_group()
    one.add_argument("--task", metavar="NAME", help="the same, as an option")
    for option, text in (
        ("--nodes", "list the nodes that answer; with -q, only their names"),
        ("--tasks", "list the tasks that can be requested"),
        ("--jobs", "list the requests that run or wait"),
    ):
        one.add_argument(option, action="store_true", help=text)
    one.add_argument(
        "--cancel",
        metavar="UUID",
        type=_uuid,
        help="end the request with this uuid, whether it runs or waits",
    )


def _add_request(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--dst",
        metavar="DST",
        help="the nodes to run it or to ask, such as 'prx*|state=active' "
        "(default: localhost for a task, else *)",
    )
    to.add_argument(
        "--data",
        metavar="JSON",
        help="data for the task: JSON, @FILE, or - for standard input",
    )


def _add_waiting(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait at most (default: a little longer than the "
        "task may run)",
    )
    to.add_argument(
        "--answer-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=ANSWER_TIMEOUT,
        help="how long to wait for nodes that do not answer at all "
        "(default: %(default)g)",
    )
    to.add_argument(
        "--expect",
        metavar="N",
        type=_count,
        help="wait until N nodes have ended or rejected, and no longer",
    )


def _add_rolling(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--batch",
        metavar="N|N%",
        type=_batch,
        help="run it on N nodes, or on N%% of them, at a time",
    )
    to.add_argument(
        "--max-failures",
        metavar="N",
        type=_count,
        help="with --batch: stop after more than N failures (default: 0)",
    )
    to.add_argument(
        "--pause",
        metavar="SECONDS",
        type=_pause,
        help="with --batch: wait between two batches (default: 0)",
    )
    to.add_argument(
        "--limit",
        metavar="N",
        type=_limit,
        help="run it on no more than N of the nodes, chosen at random",
    )


def _add_address(to: argparse.ArgumentParser) -> None:
    where = to.add_mutually_exclusive_group()
    where.add_argument(
        "--backend",
        metavar="NAME",
        help="send through this backend of the agent's configuration",
    )
    where.add_argument(
        "--url",
        metavar="URL",
        help="send through this Redis: redis://[[USER][:PASSWORD]@]HOST[:PORT]"
        ", rediss://..., or unix:///PATH; better put the PASSWORD in "
        f"${discovery.PASSWORD_VARIABLE}, where no other user can see it",
    )
    to.add_argument(
        "--channel",
        metavar="NAME",
        help="the control channel (default: the task's in the agent's "
        f"configuration, else {discovery.CONTROL_CHANNEL})",
    )
    to.add_argument(
        "--config-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DIR,
        help="the agent's configuration folder (default: %(default)s)",
    )


def _add_output(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--output",
        choices=tuple(labels.FORMS),
        default="text",
        help="what to write to standard output (default: %(default)s, the "
        "tasks' data)",
    )
    to.add_argument(
        "--label",
        action="store_true",
        help="put the node's name before each line of its data",
    )
    to.add_argument(
        "--follow",
        action="store_true",
        help="show the output as it comes, where the task allows it",
    )
    loudness = to.add_mutually_exclusive_group()
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


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line, or complete it and exit.

    :returns: the options, ``patience``, made from three of them, and
        ``reader_timeout``: seconds to wait for the reader of standard output
    """
    command_line = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        from ngcp_task_agent.client.cli import complete

        complete.attach(command_line)
        argcomplete.autocomplete(command_line)
    options = command_line.parse_args(argv)
    fault = _choose_action(options) or _fault_of_combination(options)
    folder = options.config_dir
    if folder != DEFAULT_DIR and not os.path.isdir(folder):
        fault = f"--config-dir: there is no folder '{folder}'"
    if fault:
        command_line.error(fault)
    options.reader_timeout = options.timeout or TIMEOUT
    try:
        options.patience = Patience(
            timeout=options.timeout,
            answer_timeout=options.answer_timeout,
            expect=options.expect,
        )
    except InvalidRequest as fault:
        command_line.error(f"--{str(fault).replace('_', '-')}")
    return options


def _choose_action(options: argparse.Namespace) -> str:
    """Set the task and the default destination; return what is wrong."""
    asked = _given(options, FLEET)
    if options.name is not None:
        if asked:
            return f"{asked[0]} cannot be given with a task"
        if options.task not in (None, options.name):
            return f"two tasks are given: {options.name} and {options.task}"
        options.task = options.name
    if options.task is None and not asked:
        return "name a task, or give --nodes, --tasks, --jobs or --cancel"
    if options.dst is None:
        options.dst = "*" if asked else "localhost"
    return ""


def _fault_of_combination(options: argparse.Namespace) -> str:
    """Say which options make no sense together; empty if they do."""
    form = options.output
    if form != "text":
        if options.label or (options.follow and form != "jsonl"):
            option = "--label" if options.label else "--follow"
            return f"{option} cannot be given with --output {form}"
        if form == "gathered" and options.task is None:
            return "--output gathered needs a task"
    for these, others in (
        (FLEET, ("data", *_ONCE, *ROLLING)),
        (("batch", "limit"), ("expect", "follow")),
    ):
        first, second = _given(options, these), _given(options, others)
        if first and second:
            return f"{second[0]} cannot be given with {first[0]}"
    if options.batch is None:
        for option, value in (
            ("--max-failures", options.max_failures),
            ("--pause", options.pause),
        ):
            if value is not None:
                return f"{option} makes sense only with --batch"
    return ""


def _given(options: argparse.Namespace, names: Iterable[str]) -> List[str]:
    """Return those options that are given, as users write them."""
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(options, name) not in (None, False)
    ]


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


def _limit(text: str) -> int:
    number = _count(text)
    if not number:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _batch(text: str) -> Union[int, str]:
    if re.fullmatch("([1-9][0-9]?|100)%", text):
        return text
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither a number of nodes nor a share of them such "
            "as 10%"
        )
    return int(text)


def _pause(text: str) -> float:
    number = _seconds(text)
    if not 0 <= number <= _LONGEST_PAUSE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of seconds from 0"
        )
    return number


def _uuid(text: str) -> str:
    if not re.fullmatch(
        r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text
    ):
        raise argparse.ArgumentTypeError(f"'{text}' is not a UUID")
    return text
