"""Signals while the agent starts, which takes a while: it loads much code.

To be called before that is loaded; then the agent handles them itself.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Sequence


def at_start(argv: Sequence[str]) -> None:
    """Let TERM and INT end a service quietly; HUP finds nothing to reload.

    What does not serve ends by the signal, which is no success.

    :param argv: the options
    """
    if "--check" in argv or "--reload" in argv:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def _end(*_: Any) -> None:
    # Nothing runs yet; an exception could get lost in what is being loaded.
    os._exit(0)
