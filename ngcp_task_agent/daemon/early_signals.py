"""Signals until the agent handles them itself.

Loading the agent's modules takes a while, so call this first.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Sequence


def at_start(argv: Sequence[str]) -> None:
    """Let TERM and INT end the service quietly, and ignore HUP.

    ``--check`` and ``--reload`` are killed by the signal: they have not
    succeeded.

    :param argv: the options
    """
    if {"--check", "--reload"} & {word.partition("=")[0] for word in argv}:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(*_: Any) -> None:
    # Nothing runs yet, and a module that is being loaded could swallow an
    # exception.
    os._exit(0)
