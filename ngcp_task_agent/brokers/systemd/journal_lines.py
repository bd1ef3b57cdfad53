"""What a unit has written to the journal."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from typing import Any, List

from ngcp_task_agent.logs.lines import cut

LINES = 10
LINE_BYTES = 1000  # of a line
READERS = 4  # at once
WITHIN = 2.0  # seconds: the journal can be large, and its disk slow

_threads = threading.Semaphore(READERS)


async def last_lines(unit: str, invocation: str, since: float) -> List[str]:
    """Return the last lines about one run of a unit, oldest first.

    Nothing if the journal cannot be read in time.

    :param unit: its full name
    :param invocation: the id of the run
    :param since: seconds since 1970; older lines are left out
    """
    if not invocation:
        return []
    answer: futures.Future[List[str]] = futures.Future()
    # A waiter that gives up must not cancel it.
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answer.set_result(read(unit, invocation, since))
        except Exception as error:
            answer.set_exception(error)
        finally:
            _threads.release()

    if not _threads.acquire(blocking=False):
        return []  # the journal hangs
    # No thread of the event loop: one that hangs would be missing there.
    thread = threading.Thread(target=work, name="journal", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        _threads.release()
        return []
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), WITHIN)
    except Exception:
        return []  # the reason for the request's end matters more


def read(unit: str, invocation: str, since: float) -> List[str]:
    """Read these lines; blocks.

    :raises OSError: when the journal cannot be read
    """
    from systemd import journal

    lines: List[str] = []
    with journal.Reader() as reader:
        reader.add_match(_SYSTEMD_UNIT=unit)
        reader.add_disjunction()
        # What systemd itself says about it.
        reader.add_match(INVOCATION_ID=invocation, _PID=1)
        reader.seek_tail()
        while len(lines) < LINES:
            entry = reader.get_previous()
            if not entry or entry["__REALTIME_TIMESTAMP"].timestamp() < since:
                break
            # journald cannot find out the run of a process that ended before
            # its line was read.
            run = entry.get("_SYSTEMD_INVOCATION_ID")
            if run in (None, invocation):
                lines.append(_text(entry))
    return lines[::-1]


def _text(entry: Any) -> str:
    text = entry.get("MESSAGE", "")
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    who = entry.get("SYSLOG_IDENTIFIER", "")
    line = " ".join(f"{text}".splitlines())
    return cut(f"{who}: {line}" if who else line, LINE_BYTES)
