"""The journal: one record for each decision.

Every kind of record has a MESSAGE_ID, which the catalog explains
(``journalctl -x``), and the fields of its request, so that
``journalctl NGCP_TASK_UUID=...`` shows the history of one request.

Messages are complete: they have no arguments to format.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Union

from ngcp_task_agent.logs.handlers import ErrorWriter, JournalWriter, LogWriter

logger = logging.getLogger("ngcp_task_agent")


@dataclass(frozen=True)
class Kind:
    """A kind of record.

    :ivar message_id: 128 random bits in hexadecimal, never reused
    :ivar level: a level of the logging module
    """

    message_id: str
    level: int


STARTED = Kind("cb61f1b2ba604aa18f6a9e432c9ebf77", logging.INFO)
STOPPING = Kind("332170fe9aaf4d659b5ceabe345ea738", logging.INFO)
STOPPED = Kind("2b43947a9c8c4879a7ba6c6827c92928", logging.INFO)
RELOADED = Kind("8dc7daa71cf749e397146730215f1105", logging.INFO)
RELOAD_FAULTY = Kind("1b84096856a44aee951c6e4864b3186b", logging.ERROR)
CONFIG_FAULT = Kind("07fae5dcacea458c96bf1b5a845f8b05", logging.ERROR)
CONFIG_WARNING = Kind("04a5e4a950744515a76bf7e7d825bed7", logging.WARNING)
NOTHING_TO_RUN = Kind("3f371b9925504bd5a0cbd23efbaa114e", logging.ERROR)
BACKEND_UP = Kind("38f83165fd8148d7aba58c53ffa2ee22", logging.INFO)
BACKEND_DOWN = Kind("f9d26d8429224d14b1aa50708e368108", logging.WARNING)
BACKEND_NOTE = Kind("f20581ab75fb4952b6dbab21e614d4ad", logging.INFO)
ANSWER_LOST = Kind("b3d87947e962443bb38dea560a496f01", logging.WARNING)
NODE_CHANGED = Kind("7742a9b0c1534ed7ab79b4281708a517", logging.INFO)
NODE_UNKNOWN = Kind("15519695701b44a0a5161124b79022f0", logging.WARNING)
REQUEST_IGNORED = Kind("95cb7f0bfd334ade8fffef0ea1bf540e", logging.DEBUG)
REQUEST_REJECTED = Kind("676d497bcb1d441392e3ad09fdf3d044", logging.WARNING)
REQUEST_ACCEPTED = Kind("f309a860da2d4c9b8984b715e2d6c694", logging.INFO)
TASK_DONE = Kind("b9f2a31b40ea4f35baf800a9dfee592c", logging.INFO)
TASK_ERROR = Kind("47f2e534020546e7a9d487ba42dadc3d", logging.WARNING)
RECORDS_LOST = Kind("6b765f0299e6475c9f7c36af0d64f210", logging.WARNING)
BUG = Kind("677e5810372f448a87b5c9ae9daf18b7", logging.ERROR)


def record(
    kind: Kind,
    message: str,
    *,
    bug: Union[bool, BaseException, None] = False,
    **fields: Union[str, int, None],
) -> None:
    """Write a record.

    :param bug: add the traceback of this exception, or of the one being
        handled; only for errors that no client and no file can cause
    :param fields: journal fields without their prefix: ``task="x"`` becomes
        ``NGCP_TASK=x`` and ``task_uuid="..."`` ``NGCP_TASK_UUID=...``
    """
    if not logger.isEnabledFor(kind.level):
        return
    extra = {
        f"NGCP_{name.upper()}": value
        for name, value in fields.items()
        if value is not None
    }
    extra["MESSAGE_ID"] = kind.message_id
    # Report the caller's file and line.
    logger.log(kind.level, message, extra=extra, exc_info=bug, stacklevel=2)


def set_up(level: str) -> None:
    """Log to the journal if standard error goes there, else to stderr."""
    handler: LogWriter
    if is_journal(2):
        # Imported here, because only the journal needs it installed.
        from systemd.journal import sendv

        handler = JournalWriter(_report_lost, "ngcp-task-agent", sendv)
    else:
        handler = ErrorWriter(_report_lost)
        handler.setFormatter(
            _OneLine("%(asctime)s %(levelname)-7s %(message)s")
        )
    root = logging.getLogger()
    root.handlers = [handler]
    # Of libraries, administrators need only the warnings.
    root.setLevel(logging.WARNING)
    logger.setLevel(level.upper())


def drain(within: float) -> None:
    """Wait until all records are written, at most ``within`` seconds."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogWriter):
            handler.drain(within)


def _report_lost(count: int) -> None:
    record(
        RECORDS_LOST,
        f"{count} earlier records were lost: they could not be written",
    )


def is_journal(fd: int) -> bool:
    """Whether the descriptor is the stream that $JOURNAL_STREAM names."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class _OneLine(logging.Formatter):
    """Keeps each record on one line, so that it cannot forge another."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if text.isprintable() or record.exc_info:
            return text
        return "".join(
            letter if letter.isprintable() else repr(letter)[1:-1]
            for letter in text
        )
