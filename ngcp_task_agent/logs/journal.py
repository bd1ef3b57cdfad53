"""The journal: one record for each decision.

Every kind of record has a MESSAGE_ID, which the catalog explains
(``journalctl -x``), and the fields of its request, so that
``journalctl NGCP_TASK_UUID=...`` shows the history of one request.

Messages are complete: they have no arguments to format.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from typing import Optional, Union

from ngcp_task_agent.logs.bound import Bounds
from ngcp_task_agent.logs.handlers import ErrorWriter, JournalWriter, LogWriter
from ngcp_task_agent.logs.lines import OneLine, one_line

logger = logging.getLogger("ngcp_task_agent")
_root = logging.getLogger()


@dataclass(frozen=True)
class Kind:
    """A kind of record.

    :ivar message_id: 128 random bits in hexadecimal, never reused
    :ivar level: a level of the logging module
    :ivar flood: what such records are about, if anyone who may publish can
        cause them without an accepted request: they are bounded
    """

    message_id: str
    level: int
    flood: str = ""


# Of each bounded kind, how many records are written in how many seconds.
MOST = 100
WINDOW = 60.0

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
REJECTION_LOST = Kind(
    "15c7bce47cb84dfe9cb5abb3f72f5e9e",
    logging.WARNING,
    "lost answers to rejected requests",
)
BUS_UP = Kind("9384ee8f6cd2634adc06d6dd0a1c5fb7", logging.INFO)
BUS_DOWN = Kind("0ba9b4b8155abf23a7aad36da65d9db8", logging.INFO)
METRICS_NOT_WRITTEN = Kind("7cc3c16686bd4d72abf20426145f1bf0", logging.WARNING)
METRICS_WRITTEN = Kind("a161df81c7b1489c9c15ac4f56bf5444", logging.INFO)
NODE_CHANGED = Kind("7742a9b0c1534ed7ab79b4281708a517", logging.INFO)
NODE_UNKNOWN = Kind("15519695701b44a0a5161124b79022f0", logging.WARNING)
REQUEST_IGNORED = Kind(
    "95cb7f0bfd334ade8fffef0ea1bf540e", logging.DEBUG, "ignored requests"
)
REQUEST_REJECTED = Kind(
    "676d497bcb1d441392e3ad09fdf3d044", logging.WARNING, "rejected requests"
)
REQUEST_ACCEPTED = Kind("f309a860da2d4c9b8984b715e2d6c694", logging.INFO)
TASK_DONE = Kind("b9f2a31b40ea4f35baf800a9dfee592c", logging.INFO)
TASK_ERROR = Kind("47f2e534020546e7a9d487ba42dadc3d", logging.WARNING)
TASK_STDERR = Kind("e76872b8891948e48faf29ac73b61ee2", logging.INFO)
RECORDS_LEFT_OUT = Kind("e5e0b3159ebf4c5795646f68262a920b", logging.WARNING)
RECORDS_LOST = Kind("6b765f0299e6475c9f7c36af0d64f210", logging.WARNING)
BUG = Kind("677e5810372f448a87b5c9ae9daf18b7", logging.ERROR)


def is_logged(kind: Kind) -> bool:
    """Whether the log level lets records of this kind pass."""
    return logger.isEnabledFor(kind.level)


def record(
    kind: Kind,
    message: str,
    *,
    bug: Union[bool, BaseException, None] = False,
    **fields: Union[str, int, None],
) -> None:
    """Write a record.

    :param message: what is not printable in it is escaped
    :param bug: add the traceback of this exception, or of the one being
        handled; only for errors that no client and no file can cause
    :param fields: journal fields without their prefix: ``task="x"`` becomes
        ``NGCP_TASK=x`` and ``task_uuid="..."`` ``NGCP_TASK_UUID=...``
    """
    if not is_logged(kind):
        return
    writer = _writer()
    if kind.flood and writer and not writer.bounds.let_pass(kind.flood):
        return
    named = {_field(n): v for n, v in fields.items() if v is not None}
    named["MESSAGE_ID"] = kind.message_id
    if isinstance(writer, JournalWriter) and not bug:
        # All that logging does takes as long as to write the record.
        line = one_line(message)
        writer.put(writer.parts(kind.level, logger.name, line, named))
    else:
        logger.log(kind.level, message, extra=named, exc_info=bug)


def _writer() -> Optional[LogWriter]:
    """Return what set_up() has set up."""
    handlers = _root.handlers
    if handlers and isinstance(handlers[0], LogWriter):
        return handlers[0]
    return None


@functools.lru_cache
def _field(name: str) -> str:
    return f"NGCP_{name.upper()}"


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
            OneLine("%(asctime)s %(levelname)-7s %(message)s")
        )
    handler.bounds = Bounds(MOST, WINDOW, _report_left_out)
    _root.handlers = [handler]
    # Of libraries, administrators need only the warnings.
    _root.setLevel(logging.WARNING)
    logger.setLevel(level.upper())


def drain(within: float) -> None:
    """Wait until all records are written, at most ``within`` seconds."""
    writer = _writer()
    if writer:
        writer.bounds.end()
        writer.drain(within)


def _report_left_out(what: str, count: int) -> None:
    record(
        RECORDS_LEFT_OUT,
        f"{count} more {what} within {WINDOW:g} s are not logged",
    )


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
