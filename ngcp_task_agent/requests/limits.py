"""What all tasks share: slots, memory, and time for long checks."""

from __future__ import annotations

from typing import Optional

from ngcp_task_agent.errors import Busy
from ngcp_task_agent.requests.check_time import LoopTime
from ngcp_task_agent.requests.slots import Slots

LEAST = 4096  # bytes: a request takes some besides its text


class Limits:
    """The limits of the whole agent.

    :param loop_time: shared with other limits
    :ivar max_request_memory: bytes
    """

    def __init__(self, loop_time: Optional[LoopTime] = None) -> None:
        self.slots = Slots(0)
        self.loop_time = loop_time or LoopTime()
        self.max_request_memory = 0
        self._memory = 0

    def check_memory(self, size: int) -> None:
        """
        :param size: bytes of a request's text
        :raises Busy: when there is too little room for it
        """
        if self._memory + max(size, LEAST) > self.max_request_memory:
            raise Busy(
                f"busy: the requests that wait and run take {self._memory} "
                f"of at most {self.max_request_memory} bytes"
            )

    def hold(self, size: int) -> None:
        """Count a request that waits or runs, until release()."""
        self._memory += max(size, LEAST)

    def release(self, size: int) -> None:
        self._memory -= max(size, LEAST)
