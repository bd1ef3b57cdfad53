"""The daemon's command line, see ngcp-task-agent(8)."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import io
import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    List,
    NoReturn,
    Optional,
    Sequence,
)

import setproctitle

from ngcp_task_agent import __version__
from ngcp_task_agent.config.check import check
from ngcp_task_agent.config.loader import DEFAULT_DIR, Loader
from ngcp_task_agent.daemon.agent import EX_CONFIG, Agent
from ngcp_task_agent.daemon.systemd import Notifier
from ngcp_task_agent.display import write
from ngcp_task_agent.errors import AgentError, NotAllowed
from ngcp_task_agent.logs import journal

if TYPE_CHECKING:
    import argparse

EX_IOERR, EX_NOPERM = 74, 77  # from sysexits.h

_DRAIN = 2.0  # seconds for the last records to be written
_THREADS = 8  # for files and host names

# Bytes, a little more than asyncio allocates for each read.  glibc maps and
# unmaps a block of this size each time, until one has been freed: see
# M_MMAP_THRESHOLD in mallopt(3).
_READ_BUFFER = 260 << 10
LOG_LEVEL = "info"
LEVELS = ("debug", "info", "warning", "error")


def main(argv: Optional[List[str]] = None) -> int:
    """Run the daemon, or do what the options ask for.

    The exit status is 0 after SIGTERM or SIGINT, or for a sound
    configuration; 1 after a bug, or when there is no agent to reload; 2 for a
    wrong command line; 74 when standard output cannot be written; 77 when this
    user may not reload; 78 for a configuration with faults or with nothing to
    run.
    """
    # Python would write them to standard error, past the log and its bounds:
    # one for each regular expression that a client sends, for example.
    warnings.simplefilter("ignore")
    folder = _only_folder(sys.argv[1:] if argv is None else argv)
    if folder:
        _serve(folder.absolute(), LOG_LEVEL)
    out, err = io.StringIO(), io.StringIO()
    try:
        # argparse and print() do not report that these cannot be written.
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            options = parser().parse_args(argv)
            if options.check:
                file = None if options.check is True else options.check
                sys.exit(_check(options.config_dir, file))
            if options.reload:
                sys.exit(_reload())
    except SystemExit as end:
        return _print(out.getvalue(), err.getvalue(), int(end.code or 0))
    _serve(options.config_dir.absolute(), options.log_level)


def _only_folder(words: Sequence[str]) -> Optional[Path]:
    """Return the folder of a command line that gives nothing else.

    It needs no argparse, which takes a while to load.
    """
    if len(words) == 2 and words[0] == "--config-dir":
        is_folder = words[1] and words[1][0] != "-"
        return Path(words[1]) if is_folder else None
    return None if words else DEFAULT_DIR


def _print(out: str, err: str, status: int) -> int:
    """Write the output; return the exit status."""
    try:
        write(sys.stdout, 1, out)
    except OSError as error:
        status = EX_IOERR
        # A reader may stop early, as head(1) does: no message.
        if not isinstance(error, BrokenPipeError):
            err += f"ngcp-task-agent: standard output: {error.strerror}\n"
    with contextlib.suppress(OSError):
        write(sys.stderr, 2, err)
    return status


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    import argparse

    made = argparse.ArgumentParser(
        prog="ngcp-task-agent",
        description="Run configured tasks for clients on a message bus.",
        epilog="See ngcp-task-agent(8) and ngcp-task-agent.yml(5).",
        # early_signals.py looks for the options' full names.
        allow_abbrev=False,
    )
    made.add_argument(
        "--config-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DIR,
        help="configuration folder (default: %(default)s)",
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument(
        "--check",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=True,
        help="check the configuration, or a file as if it was part of it, "
        "print every fault, and exit",
    )
    what.add_argument(
        "--reload",
        action="store_true",
        help="make the running service reload, print every fault, and exit",
    )
    made.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=str.lower,
        choices=LEVELS,
        default=LOG_LEVEL,
        help=f"lowest level to log: {', '.join(LEVELS)} "
        "(default: %(default)s)",
    )
    made.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    return made


def _check(folder: Path, file: Optional[Path]) -> int:
    findings = check(folder, file)
    for line in findings.lines():
        print(line)
    return 0 if findings.is_sound else EX_CONFIG


def _reload() -> int:
    from ngcp_task_agent.management import reload

    try:
        faults, signalled = asyncio.run(reload.ask())
    except AgentError as error:
        print(f"ngcp-task-agent: {error}", file=sys.stderr)
        return EX_NOPERM if isinstance(error, NotAllowed) else 1
    if signalled:
        print(signalled)
    # The agent has already written them there.
    if not journal.is_journal(2):
        for fault in faults:
            print(fault, file=sys.stderr)
    return EX_CONFIG if faults else 0


def _serve(folder: Path, log_level: str) -> NoReturn:
    _open_missing()
    # The watchdog ends a hung agent with SIGABRT: show where it hung.
    faulthandler.enable(2)
    setproctitle.setproctitle("ngcp-task-agent")
    journal.set_up(log_level)
    # Commands must not inherit descriptors from the agent's parent.
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
    # A parent may have ignored it: then no process could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir("/")
    bytes(_READ_BUFFER)  # allocates one, and frees it
    asyncio.run(_run(folder))


def _open_missing() -> None:
    """Open /dev/null for each standard stream that is closed.

    Otherwise the next file, or a command's pipe, would get its number.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


async def _run(folder: Path) -> NoReturn:
    """Run the agent, and exit with its status."""
    try:
        asyncio.get_running_loop().set_default_executor(_threads())
        status = await Agent(Loader(folder), Notifier()).run()
    except Exception:
        journal.record(journal.BUG, "a bug: the agent has ended", bug=True)
        status = 1
    journal.drain(_DRAIN)
    # asyncio and Python would join threads that wait for a name service,
    # however long that takes.
    os._exit(status)


def _threads() -> ThreadPoolExecutor:
    """Start all threads of the event loop.

    Later, commands may have used up the limit on processes and threads.
    """
    threads = ThreadPoolExecutor(_THREADS)
    all_there = threading.Barrier(_THREADS)
    for started in [threads.submit(all_there.wait) for _ in range(_THREADS)]:
        started.result()
    return threads
