"""AgentJournal: the records that the agent itself wrote about requests."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional

from ngcp_task_agent.ctl import records
from ngcp_task_agent.ctl.failure import EX_NOPERM, FAILED, Failure
from ngcp_task_agent.ctl.records import STARTED, Record, canonical

UNIT = "ngcp-task-agent.service"
# The name of the process: commands that run as root are called otherwise.
_COMM = "ngcp-task-agent"
_FOLDERS = (Path("/run/log/journal"), Path("/var/log/journal"))
_REMEMBERED = 10_000  # requests


class Wanted(NamedTuple):
    """What to read.

    :ivar user: the number of the user whom the agent runs as
    :ivar folder: of journal files; None for this machine's
    """

    uuid: Optional[str] = None
    task: Optional[str] = None
    user: int = 0
    folder: Optional[Path] = None


class AgentJournal:
    """Reads records in the order of time.  Blocks.

    Only records for which journald itself vouches: anyone can write others
    that look like the agent's.

    :param wanted: only these
    :param is_exact: find the uuid by the journal's index, in which a text has
        one spelling; else read all records
    :raises Failure: when it cannot be read
    """

    def __init__(self, wanted: Wanted, is_exact: bool = True) -> None:
        try:
            # Imported here: only this command needs it.
            from systemd.journal import Reader
        except ImportError:
            raise Failure(
                "the journal cannot be read without Debian's package "
                "python3-systemd",
                FAILED,
            ) from None
        self._wanted = wanted
        self._uuid = None if wanted.uuid is None else canonical(wanted.uuid)
        # The uuids of the task's requests: other records do not name it.
        self._recent: dict[str, None] = {}
        _check_rights(wanted.folder)
        with _readable():
            path = None if wanted.folder is None else str(wanted.folder)
            self._reader: Any = Reader(path=path)
            self._add_matches(is_exact)

    def __enter__(self) -> AgentJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def _add_matches(self, is_exact: bool) -> None:
        wanted, add = self._wanted, self._reader.add_match
        self._add_agent(records.MESSAGE_IDS)
        if wanted.uuid is not None and self._uuid is not None:
            if is_exact:
                for text in {wanted.uuid, self._uuid, self._uuid.upper()}:
                    add(NGCP_TASK_UUID=os.fsencode(text))
        elif wanted.task is not None:
            add(NGCP_TASK=os.fsencode(wanted.task))
        # Or one of these, which name neither.
        self._reader.add_disjunction()
        also = () if wanted.uuid is not None else records.WITHOUT_TASK
        self._add_agent((*also, records.STARTED_ID))

    def _add_agent(self, message_ids: Iterable[str]) -> None:
        self._reader.add_match(
            _SYSTEMD_UNIT=UNIT, _COMM=_COMM, _UID=self._wanted.user
        )
        for message_id in message_ids:
            self._reader.add_match(MESSAGE_ID=message_id)

    def watch(self) -> None:
        """Let wait() notice all records that are written from now on."""
        with _readable():
            self._reader.fileno()

    def seek(self, since: Optional[float]) -> None:
        """Continue with the first record, or the first since a unix time."""
        with _readable():
            if since is None:
                self._reader.seek_head()
            else:
                self._reader.seek_realtime(max(0.0, since))

    def last(self, count: int) -> List[Record]:
        """Return the last records, and continue behind them."""
        with _readable():
            self._reader.seek_tail()
            # Moves as far as there are records.
            entry = self._reader.get_previous(count)
            if not entry:
                # Behind the tail, libsystemd would never find any.
                self._reader.seek_head()
        first = [records.parse(entry)] if entry else []
        return [*filter(self._is_wanted, first), *self.read()]

    def read(self) -> Iterator[Record]:
        """Return the further records that there are."""
        while True:
            with _readable():
                entry = self._reader.get_next()
            if not entry:
                return
            record = records.parse(entry)
            if self._is_wanted(record):
                yield record

    def _is_wanted(self, record: Record) -> bool:
        task, key = self._wanted.task, record.key
        if record.status == STARTED:
            return True
        if self._uuid is not None:
            return key == self._uuid and (
                None in (task, record.task) or record.task == task
            )
        if task is None or key is None:
            return record.task == task or task is None
        if record.task == task:
            self._recent.pop(key, None)
            self._recent[key] = None
            if len(self._recent) > _REMEMBERED:
                del self._recent[next(iter(self._recent))]
        return key in self._recent

    def wait(self, output: int) -> bool:
        """Wait for further records.

        :param output: a descriptor
        :returns: False when its reader has gone
        """
        with _readable():
            poll = select.poll()
            poll.register(self._reader.fileno(), self._reader.get_events())
            poll.register(output, 0)
            timeout = self._reader.get_timeout_ms()
            ready = dict(poll.poll(None if timeout < 0 else timeout))
            # Also opens new files, when journald has rotated its own.
            self._reader.process()
        return output not in ready


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(
            f"the journal cannot be read: {reason}", FAILED
        ) from None


def _check_rights(folder: Optional[Path]) -> None:
    """Check that this user may read the system's journal.

    libsystemd reads what it may, and is silent about the rest.

    :raises Failure: if none of it can be read
    """
    if folder is not None:
        if not os.access(folder, os.R_OK | os.X_OK):
            is_there = os.path.lexists(folder)
            reason = "may not be read" if is_there else "does not exist"
            raise Failure(
                f"the folder {folder} {reason}",
                EX_NOPERM if is_there else FAILED,
            )
        return
    files = [f for folder in _FOLDERS for f in folder.glob("*/system.journal")]
    if files and not any(os.access(file, os.R_OK) for file in files):
        raise Failure(
            "you may not read the journal; use sudo, or let root add you to "
            "the group systemd-journal: adduser USER systemd-journal",
            EX_NOPERM,
        )
