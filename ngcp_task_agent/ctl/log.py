"""``log``: the stories of requests, from the journal."""

from __future__ import annotations

import argparse
import pwd
from typing import Iterable, List

from ngcp_task_agent.ctl import output
from ngcp_task_agent.ctl.failure import FAILED, Failure, OutputError
from ngcp_task_agent.ctl.reader import AgentJournal, Wanted
from ngcp_task_agent.ctl.records import STARTED, Record, local_time
from ngcp_task_agent.ctl.stories import Stories
from ngcp_task_agent.display import json_line

SHOWN_BEFORE = 10  # records before the first one that --follow waits for
_AT_ONCE = 1 << 16  # characters to write in one piece


def log(options: argparse.Namespace) -> int:
    """Show records; return the exit status.  Blocks.

    :raises Failure: when the journal cannot be read
    :raises OutputError: when standard output cannot be written
    """
    wanted = Wanted(
        options.uuid, options.task, options.service_user, options.directory
    )
    # A client may spell a uuid in several ways, and the index has it as sent.
    for is_exact in (True, False):
        with AgentJournal(wanted, is_exact) as journal:
            if options.follow:
                journal.watch()
            shown = _Shown(options)
            shown.add(_existing(journal, options))
            shown.end()
            if not shown.count and is_exact and options.uuid is not None:
                continue
            if options.follow:
                _follow(journal, shown)
            break
    return 0 if shown.count else _report_none(options)


def service_user(text: str) -> int:
    """Return the number of a user, who may be given by name.

    :raises ValueError: when there is no such user
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(f"there is no user '{text}'") from None


def _existing(
    journal: AgentJournal, options: argparse.Namespace
) -> Iterable[Record]:
    if options.follow and options.since is None and options.uuid is None:
        return journal.last(SHOWN_BEFORE)
    journal.seek(options.since)
    return journal.read()


def _follow(journal: AgentJournal, shown: _Shown) -> None:
    """Show further records, until the reader of standard output has gone."""
    while journal.wait(output.STDOUT):
        shown.add(journal.read())
        shown.end()
    raise OutputError(BrokenPipeError())


def _report_none(options: argparse.Namespace) -> int:
    task = f" of the task '{options.task}'" if options.task else ""
    since = ""
    if options.since is not None:
        since = f" since {local_time(options.since)}"
    if options.uuid is not None:
        raise Failure(
            f"the journal has no record of a request '{options.uuid}'"
            f"{task}{since}",
            FAILED,
        )
    output.say(f"the journal has no record of a request{task}{since}")
    return 0


class _Shown:
    """What is written: stories, lines as they come, or JSON.

    :ivar count: records
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.count = 0
        self._is_json = options.json
        self._is_following = options.follow
        self._parts: List[str] = []
        self._size = 0
        self._stories = Stories(self._write)

    def add(self, found: Iterable[Record]) -> None:
        for record in found:
            self.count += record.status != STARTED
            self._add(record)

    def _add(self, record: Record) -> None:
        if not self._is_json and not self._is_following:
            self._stories.add(record)
        elif record.status == STARTED:
            pass  # only stories end with it
        elif self._is_json:
            self._write(json_line(record.as_json()))
        else:
            about = "" if record.is_about_all else record.request()
            self._write(f"{record.line(about)}\n")

    def end(self) -> None:
        """Write what waits."""
        self._stories.end()
        self._flush()

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._parts:
            output.write("".join(self._parts))
            self._parts.clear()
            self._size = 0
