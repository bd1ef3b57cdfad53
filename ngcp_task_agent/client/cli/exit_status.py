"""The exit statuses of ngcp-invoke-task, as its man page lists them."""

from __future__ import annotations

import signal

from ngcp_task_agent.client.outcome import Verdict

EX_NONE = 1  # --cancel: no node had such a job
EX_USAGE = 2
EX_UNANSWERED = 4
EX_MISSING = 5  # a node of the --dst has not answered
EX_UNAVAILABLE = 69  # Redis, as in sysexits.h
EX_SOFTWARE = 70
EX_IOERR = 74
BY_SIGNAL = 128  # plus the signal's number, as in shells
# What interrupts the command; unless ignored, as by shells and nohup(1).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_STATUSES = {
    Verdict.DONE: 0,
    Verdict.ERROR: 1,
    Verdict.REJECTED: 3,
    Verdict.UNANSWERED: EX_UNANSWERED,
    Verdict.UNFINISHED: EX_MISSING,
}
