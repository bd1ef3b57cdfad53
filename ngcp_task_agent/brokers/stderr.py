"""StderrLog: what a command writes to standard error, in the journal."""

from __future__ import annotations

from typing import Optional

from ngcp_task_agent.logs import journal
from ngcp_task_agent.logs.bound import Bound
from ngcp_task_agent.logs.lines import cut
from ngcp_task_agent.protocol.messages import Request

LINES = 100  # a second
LINE_BYTES = 1000  # of a line
_KEPT = LINE_BYTES + 3  # enough to see where the last character ends


class StderrLog:
    """Logs each line as it comes, with the fields of the request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._rest = b""  # the start of a line that is not complete
        self._bound = Bound(LINES, 1.0, self._report_left_out)

    def write(self, data: bytes) -> None:
        """Take what the command writes; ``b""`` is the end."""
        written = self._rest + data
        if not data and written:
            written += b"\n"
        passing = self._bound.take(written.count(b"\n"))
        # Splitting all of a flood would block the loop for 10 ms.
        *lines, _ = written.split(b"\n", passing)
        self._rest = written.rpartition(b"\n")[2][:_KEPT]
        for line in lines:
            text = cut(line[:_KEPT].decode(errors="replace"), LINE_BYTES)
            self._record(journal.TASK_STDERR, text, text)
        if not data:
            self._bound.end()

    def _report_left_out(self, count: int) -> None:
        text = f"{count} more lines within 1 s are not logged"
        self._record(journal.RECORDS_LEFT_OUT, text)

    def _record(
        self, kind: journal.Kind, text: str, line: Optional[str] = None
    ) -> None:
        request = self._request
        journal.record(
            kind,
            f"stderr of {request.task}, request {request.uuid}: {text}",
            task=request.task,
            task_uuid=request.uuid,
            task_src=request.src,
            task_stderr=line,
        )
