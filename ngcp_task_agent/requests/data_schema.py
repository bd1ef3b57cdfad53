"""A task's ``data_schema``: checks what any client sends, in bounded time."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Mapping

from ngcp_task_agent.errors import CannotStart, Rejected
from ngcp_task_agent.process.cpu_limit import Overrun, cpu_limit
from ngcp_task_agent.process.run import EndCause, Exit, Process
from ngcp_task_agent.process.spawn import Command
from ngcp_task_agent.process.users import own_user
from ngcp_task_agent.requests import validate
from ngcp_task_agent.requests.slots import Slots

# Messages of up to this many bytes are checked on the event loop, larger ones
# in a process: starting it takes longer than most checks, but the loop stays
# free, and a process can be killed.
ON_LOOP_BYTES = 4096
ON_LOOP_SECONDS = 0.1  # CPU seconds
IN_PROCESS_SECONDS = 1.5  # seconds; clients must still be waiting

_MOST_WAITING = 8  # large requests; each holds its data in memory


class DataSchema:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._validator = validate.validator(schema)
        # A flood of large requests starts one process at a time.
        self._processes = Slots(1)
        self._waiting = 0

    async def check(self, data: Any, size: int) -> None:
        """
        :param size: bytes of the message that the data came in
        :raises Rejected: naming the rule that the data breaks, or when the
            check takes too long
        """
        if size > ON_LOOP_BYTES:
            await self._check_large(data)
            return
        try:
            with cpu_limit(ON_LOOP_SECONDS):
                validate.check_data(self._validator, data)
        except Overrun:
            raise _too_long(ON_LOOP_SECONDS) from None

    async def _check_large(self, data: Any) -> None:
        if self._waiting >= _MOST_WAITING:
            raise Rejected(
                f"data_schema: busy: {_MOST_WAITING} large requests wait to "
                "be checked"
            )
        deadline = time.monotonic() + IN_PROCESS_SECONDS
        self._waiting += 1
        try:
            async with self._processes:
                outcome = await self._run(data, deadline)
        except CannotStart as error:
            raise Rejected(
                f"data_schema: cannot be checked: {error}"
            ) from None
        finally:
            self._waiting -= 1
        if outcome.cause is EndCause.TIMEOUT:
            raise _too_long(IN_PROCESS_SECONDS)
        if outcome.exit_status != 0:
            raise Rejected(
                "data_schema: cannot be checked: the checking process failed"
            )
        if outcome.stdout:
            raise Rejected(outcome.stdout.decode())

    async def _run(self, data: Any, deadline: float) -> Exit:
        timeout = deadline - time.monotonic()
        if timeout <= 0:
            raise _too_long(IN_PROCESS_SECONDS)
        user = own_user()
        path = os.pathsep.join(filter(None, sys.path))
        given = {"schema": self._schema, "data": data}
        command = Command(
            argv=(sys.executable, "-m", validate.__name__),
            user=user,
            environment={**user.environment(), "PYTHONPATH": path},
            max_output=65536,
            stdin=json.dumps(given).encode(),
            timeout=timeout,
        )
        return await Process(command).run()


def _too_long(seconds: float) -> Rejected:
    return Rejected(f"data_schema: takes more than {seconds:g} s to check")
