"""Node: the names, roles, state, status and labels of this machine.

What the configuration does not give comes from the files of an NGCP node.  Any
other machine has its short host name and no roles, and is active and online.
State, status and roles can change at any time.  They are polled in the
background, so requests do not wait for them.  A state older than a second is
``unknown``.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from ngcp_task_agent import background
from ngcp_task_agent.config.models import UNKNOWN, NodeConfig
from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.logs import journal
from ngcp_task_agent.node import ngcp_files
from ngcp_task_agent.process.run import EndCause, Process
from ngcp_task_agent.process.spawn import Command, find_program
from ngcp_task_agent.process.users import own_user
from ngcp_task_agent.protocol.identity import Identity

CHECK_ACTIVE = ("/usr/sbin/ngcp-check-active", "-v")
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 0.7  # seconds between two polls
STATE_VALID = 1.0  # seconds after which a state is unknown
STATE_TIMEOUT = 5.0  # seconds that the state command may take
_STATE_OUTPUT = 4096  # bytes


class Node:
    """Keeps the identity up to date between start() and stop().

    The constructor reads files and may ask a name service: call it in a
    thread.

    :param root: where to look for the system's files; tests use another than
        ``/``
    :raises OSError: when descriptors or memory are used up, so the node's name
        cannot be found
    """

    def __init__(self, config: NodeConfig, root: Path = Path("/")) -> None:
        self.config = config
        self.name = config.name or ngcp_files.find_name(root)
        names = {self.name, *ngcp_files.host_names(root), *config.aliases}
        self._names = frozenset(name.lower() for name in names)
        self._roles = ngcp_files.WatchedFile(
            root / "etc/default/ngcp-roles", ngcp_files.parse_roles, broken=()
        )
        self._network = ngcp_files.WatchedFile(
            root / "etc/ngcp-config/network.yml",
            self._parse_status,
            broken=UNKNOWN,
        )
        self._state: Optional[_StateCommand] = None
        check = root / CHECK_ACTIVE[0].lstrip("/")
        if config.state_command:
            self._state = _StateCommand(config.state_command)
        elif not config.state and check.exists():
            self._state = _StateCommand((str(check), *CHECK_ACTIVE[1:]))
        self._pollers: List[asyncio.Task[None]] = []

    def _parse_status(self, text: str) -> Optional[str]:
        names = (self.name, *sorted(self._names))
        return ngcp_files.parse_status(text, names)

    def identity(self) -> Identity:
        """Return who the node is now; does not wait."""
        config = self.config
        facts: Dict[str, Tuple[str, ...]] = {
            key.lower(): (value,) for key, value in config.labels.items()
        }
        state = self._state.state if self._state else config.state or "active"
        roles = self._roles.value if config.roles is None else config.roles
        facts["state"] = (state,)
        facts["status"] = (config.status or self._network.value or "online",)
        facts["role"] = roles or ()
        return Identity(self.name, self._names, facts)

    async def start(self) -> None:
        """Read everything once, then poll in the background."""
        polls = []
        if None in (self.config.roles, self.config.status):
            await asyncio.to_thread(self._read_files)
            polls.append(self._poll_files())
        if self._state:
            await self._state.read()
            polls.append(self._state.poll())
        self._pollers = [background.start(poll) for poll in polls]

    async def stop(self) -> None:
        for poller in self._pollers:
            await background.end(poller)

    async def _poll_files(self) -> None:
        # In one thread all the time: to wake up the event loop for each look
        # would take most of an idle agent's processor time.  No deadline: a
        # hung disk delays only this thread.
        is_over = threading.Event()

        def poll() -> None:
            while not is_over.wait(LONGEST_PAUSE):
                self._read_files()

        try:
            await asyncio.to_thread(poll)
        finally:
            is_over.set()

    def _read_files(self) -> None:
        if self.config.roles is None:
            self._roles.refresh()
        if self.config.status is None:
            self._network.refresh()


class _StateCommand:
    """Polls the command that prints the node's state."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        # This may block; from now on the user is cached.
        self._user = own_user()
        self._state = ""
        self._read_at = -math.inf

    @property
    def state(self) -> str:
        is_old = time.monotonic() - self._read_at > STATE_VALID
        return UNKNOWN if is_old else self._state

    async def poll(self) -> None:
        """Poll the state; start sooner when the command is slow."""
        took, was_slow = 0.0, False
        while True:
            pause = STATE_VALID - 0.2 - 2 * took
            await asyncio.sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, pause)))
            begin = time.monotonic()
            await self.read()
            took = time.monotonic() - begin
            is_slow = took > STATE_VALID - SHORTEST_PAUSE
            if is_slow and not was_slow:
                journal.record(
                    journal.NODE_UNKNOWN,
                    f"state_command: it takes {took:.1f} s; the state is "
                    f"unknown whenever it is {STATE_VALID:.0f} s old",
                )
            was_slow = is_slow

    async def read(self) -> None:
        """Run the command once."""
        state, why = await self._run()
        if state != self._state:
            kind = journal.NODE_UNKNOWN if why else journal.NODE_CHANGED
            reason = why and f": state_command: {why}"
            journal.record(kind, f"the state of this node is {state}{reason}")
        self._state = state
        self._read_at = time.monotonic()

    async def _run(self) -> Tuple[str, str]:
        """Return the state, and why it is unknown."""
        try:
            command = Command(
                [find_program(self._argv[0]), *self._argv[1:]],
                self._user,
                self._user.environment(),
                _STATE_OUTPUT,
                timeout=STATE_TIMEOUT,
            )
            ended = await Process(command).run()
        except CannotStart as error:
            return UNKNOWN, str(error)
        if ended.cause is not EndCause.EXITED:
            return UNKNOWN, ended.cause.value
        if ended.stderr:
            return UNKNOWN, "it wrote to standard error"
        words = ended.stdout.decode(errors="replace").lower().split()
        if len(words) != 1:
            return UNKNOWN, "it did not print one word"
        # Other states may come with an exit status, but "active" with one is a
        # contradiction.
        if ended.exit_status != 0 and words[0] == "active":
            return UNKNOWN, (
                "it printed 'active' but ended with exit status "
                f"{ended.exit_status}"
            )
        return words[0], ""
