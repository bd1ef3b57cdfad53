"""Records: what the journal says about requests, one decision each."""

from __future__ import annotations

import datetime
import uuid
from typing import Any, Dict, Mapping, NamedTuple, Optional

from ngcp_task_agent.display import seconds
from ngcp_task_agent.logs import journal
from ngcp_task_agent.logs.lines import printable

# Records that other fields describe; the word is their status.
_OTHERS = {
    journal.TASK_STDERR.message_id: "stderr",
    journal.ANSWER_LOST.message_id: "answer lost",
    journal.REJECTION_LOST.message_id: "answer lost",
    journal.RECORDS_LEFT_OUT.message_id: "left out",
    journal.RECORDS_LOST.message_id: "records lost",
    journal.BUG.message_id: "bug",
}
_DECISIONS = (
    journal.REQUEST_IGNORED,
    journal.REQUEST_REJECTED,
    journal.REQUEST_ACCEPTED,
    journal.TASK_DONE,
    journal.TASK_ERROR,
)

#: The records to read, by MESSAGE_ID.
MESSAGE_IDS = (*(kind.message_id for kind in _DECISIONS), *_OTHERS)
#: Those of requests that do not name the request's task.
WITHOUT_TASK = (
    journal.ANSWER_LOST.message_id,
    journal.REJECTION_LOST.message_id,
)
#: The record with which an agent begins, and its status here.
STARTED_ID = journal.STARTED.message_id
STARTED = "started"
#: The statuses after which a request has no more decisions.
ENDINGS = ("rejected", "ignored", "done", "error")
#: All statuses.
STATUSES = ("accepted", *ENDINGS, *_OTHERS.values())

_STATUS_WIDTH = max(map(len, ENDINGS))
_SECONDS_WIDTH = len("9999.9 s")


class Record(NamedTuple):
    """A record about a request, or about the agent's records.

    The client has chosen ``uuid``, ``task`` and ``src``; ``stderr`` is what a
    command wrote.

    :ivar when: unix time, in seconds
    :ivar seconds: from the arrival of the request to its end
    """

    when: float
    status: str
    uuid: Optional[str] = None
    task: Optional[str] = None
    src: Optional[str] = None
    seconds: Optional[float] = None
    exit_status: Optional[int] = None
    reason: Optional[str] = None
    stderr: Optional[str] = None

    @property
    def key(self) -> Optional[str]:
        """Return what is equal in all records of one request."""
        return None if self.uuid is None else canonical(self.uuid)

    @property
    def is_about_all(self) -> bool:
        """Whether it is about the records, and not about one request."""
        return self.uuid is None and self.status not in ENDINGS

    def as_json(self) -> Dict[str, Any]:
        return {
            "time": utc_time(self.when),
            **{k: v for k, v in self._asdict().items() if k != "when"},
        }

    def request(self) -> str:
        """Describe the request: its uuid, task and src."""
        return printable(
            f"{self.uuid or 'no uuid'}  {self.task or 'a message'} from "
            f"{self.src or 'an unknown client'}"
        )

    def line(self, request: str = "") -> str:
        """Describe the decision in one line.

        :param request: what comes before the reason
        """
        took = "" if self.seconds is None else seconds(self.seconds)
        cells = [
            local_time(self.when),
            printable(self.status).ljust(_STATUS_WIDTH),
            took.rjust(_SECONDS_WIDTH),
            request,
            printable(": ".join(filter(None, (self.reason, self.stderr)))),
        ]
        return "  ".join(filter(None, cells)).rstrip()


def local_time(when: float) -> str:
    """Format a unix time as this machine's clock shows it."""
    moment = datetime.datetime.fromtimestamp(when)
    return moment.isoformat(" ", "milliseconds")


def utc_time(when: float) -> str:
    """Format a unix time for programs."""
    moment = datetime.datetime.fromtimestamp(when, datetime.timezone.utc)
    return moment.isoformat(timespec="microseconds")


def canonical(text: str) -> str:
    """Return one spelling of a UUID; other texts as they are."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text


def parse(entry: Mapping[str, Any]) -> Record:
    """Make a record of an entry of systemd.journal.Reader."""
    message_id = entry.get("MESSAGE_ID")
    kind = getattr(message_id, "hex", "")
    status = STARTED if kind == STARTED_ID else _OTHERS.get(kind)
    status = status or _text(entry, "NGCP_TASK_STATUS") or "?"
    reason = _text(entry, "NGCP_TASK_REASON")
    stderr = _text(entry, "NGCP_TASK_STDERR")
    if (
        reason is None
        and stderr is None
        and status not in ("accepted", "done")
    ):
        # Also of an agent that had no field for it.
        reason = _text(entry, "MESSAGE")
    usec = _number(entry, "NGCP_TASK_DURATION_USEC")
    return Record(
        entry["__REALTIME_TIMESTAMP"].timestamp(),
        status,
        _text(entry, "NGCP_TASK_UUID"),
        _text(entry, "NGCP_TASK"),
        _text(entry, "NGCP_TASK_SRC"),
        None if usec is None else usec / 1e6,
        _number(entry, "NGCP_TASK_EXIT_STATUS"),
        reason,
        stderr,
    )


def _text(entry: Mapping[str, Any], name: str) -> Optional[str]:
    value = entry.get(name)
    if isinstance(value, list):
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    return None if value is None else str(value)


def _number(entry: Mapping[str, Any], name: str) -> Optional[int]:
    try:
        return int(_text(entry, name) or "")
    except ValueError:
        return None
