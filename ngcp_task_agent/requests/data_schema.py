"""A task's ``data_schema``: checks what strangers send, in bounded time."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Mapping

from ngcp_task_agent.errors import CannotStart, Rejected
from ngcp_task_agent.process.cpu_limit import Overrun, cpu_limit
from ngcp_task_agent.process.run import Cause, Outcome, Process
from ngcp_task_agent.process.spawn import Command
from ngcp_task_agent.process.users import own_user
from ngcp_task_agent.requests import validate
from ngcp_task_agent.requests.slots import Slots

# Bytes of a message whose data is checked on the spot.  For more a process of
# its own is started: it takes longer than most checks, but holds up nobody,
# and can be ended.
SMALL = 4096
SMALL_WITHIN = 0.1  # seconds of the processor
LARGE_WITHIN = 1.5  # seconds, so that the answer comes before clients go

_MOST_WAITING = 8


class DataSchema:
    """Checks data against one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._validator = validate.validator(schema)
        # Whoever floods a task starts one process at a time.
        self._slots = Slots(1)
        self._waiting = 0

    async def check(self, data: Any, size: int) -> None:
        """
        :param size: bytes of the message that the data came in
        :raises Rejected: when the data breaks a rule, which is named, or
            cannot be checked in time
        """
        if size > SMALL:
            await self._check_elsewhere(data)
            return
        try:
            with cpu_limit(SMALL_WITHIN):
                validate.check(self._validator, data)
        except Overrun:
            raise _too_long(SMALL_WITHIN) from None

    async def _check_elsewhere(self, data: Any) -> None:
        if self._waiting >= _MOST_WAITING:
            # Each holds as much memory as its request needs.
            raise Rejected(
                f"data_schema: busy: {_MOST_WAITING} large requests wait to "
                "be checked"
            )
        deadline = time.monotonic() + LARGE_WITHIN
        self._waiting += 1
        try:
            await self._check_in_turn(data, deadline)
        finally:
            self._waiting -= 1

    async def _check_in_turn(self, data: Any, deadline: float) -> None:
        async with self._slots:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _too_long(LARGE_WITHIN)
            try:
                outcome = await self._run(data, left)
            except CannotStart as error:
                raise Rejected(
                    f"data_schema: cannot be checked: {error}"
                ) from None
        if outcome.cause is Cause.TIMEOUT:
            raise _too_long(LARGE_WITHIN)
        if outcome.exit_status != 0:
            raise Rejected(
                "data_schema: cannot be checked: the process for it has failed"
            )
        if outcome.stdout:
            raise Rejected(outcome.stdout.decode())

    async def _run(self, data: Any, timeout: float) -> Outcome:
        user = own_user()
        given = {"schema": self._schema, "data": data}
        return await Process(
            Command(
                argv=(sys.executable, "-m", validate.__name__),
                user=user,
                environment={
                    **user.environment(),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                max_output=65536,
                stdin=json.dumps(given).encode(),
                timeout=timeout,
            )
        ).run()


def _too_long(seconds: float) -> Rejected:
    return Rejected(f"data_schema: takes more than {seconds:g} s to check")
