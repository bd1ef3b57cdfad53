"""Asks the running agent to reload, and waits.

``systemctl reload`` should return once the new configuration is in force, and
report its faults.  A signal can do neither, so the unit's ExecReload is
``ngcp-task-agent --reload``, which asks over the bus.  Only where no agent can
be asked does it send a signal.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import List, Optional, Tuple

from ngcp_task_agent.errors import BusAway, CannotReload
from ngcp_task_agent.management.client import RunningAgent

SYSTEMCTL_WITHIN = 10.0  # seconds
APPEAR_WITHIN = 2.0  # seconds for a service that has just started
_LOOK_EVERY = 0.05
_PROGRAM = "ngcp-task-agent"
_UNIT = "ngcp-task-agent.service"


async def ask() -> Tuple[List[str], str]:
    """Make the agent reload.

    Within ExecReload, that is the agent of this service, whichever is on the
    bus.

    :returns: the faults, and that it got a signal instead and why, or ""
    :raises NotAllowed: when this user may not
    :raises BusError: when the agent could not reload
    :raises CannotReload: when there is no agent
    """
    pid = _main_pid()
    try:
        async with RunningAgent() as agent:
            if pid is None or await _owner(agent) == pid:
                return await agent.reload(), ""
        why = "another agent is on the system bus"
    except BusAway as error:
        why = str(error)
    if pid is None:
        _signal_unit(why)
    else:
        _signal_process(pid, why)
    return [], f"{why}: sent SIGHUP; the journal has the result"


async def _owner(agent: RunningAgent) -> int:
    """Return the process of the agent on the bus.

    :raises BusAway: when there is none
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + APPEAR_WITHIN
    while True:
        try:
            return await agent.pid()
        except BusAway:
            if loop.time() > end:
                raise
        await asyncio.sleep(_LOOK_EVERY)


def _main_pid() -> Optional[int]:
    """Return the service's process, which systemd names to ExecReload."""
    text = os.environ.get("MAINPID", "")
    is_pid = re.fullmatch("[0-9]{1,9}", text) and int(text) > 1
    return int(text) if is_pid else None


def _signal_process(pid: int, why: str) -> None:
    comm = Path(f"/proc/{pid}/comm")
    try:
        os.kill(pid, 0)  # raises if there is no such process
        if comm.read_text() != f"{_PROGRAM}\n":  # it might end it
            raise CannotReload(f"{why}, and process {pid} is no agent")
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise CannotReload(
            f"{why}, and SIGHUP cannot be sent to process {pid}: "
            f"{error.strerror}"
        ) from None


def _signal_unit(why: str) -> None:
    words = ["systemctl", "--no-ask-password", "kill", "--kill-who=main"]
    try:
        done = subprocess.run(
            [*words, "--signal=HUP", _UNIT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SYSTEMCTL_WITHIN,
        )
    except OSError as error:
        what = error.strerror or ""
    except subprocess.TimeoutExpired:
        what = f"no answer within {SYSTEMCTL_WITHIN:g} s"
    else:
        if done.returncode == 0:
            return
        line = done.stderr.strip().partition("\n")[0]
        what = line.partition(". ")[0].rstrip(".")  # the first sentence
    raise CannotReload(
        f"{why}, and systemctl cannot send SIGHUP to {_UNIT}: {what}; an "
        "agent started by hand reloads on SIGHUP"
    )
