"""What all tasks share: slots, memory, and time for long checks."""

from __future__ import annotations

from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.requests.check_time import LoopTime
from ngcp_task_agent.requests.slots import Slots

LEAST = 4096  # bytes that a request takes besides its text


class Limits:
    """The limits of the whole agent.

    :ivar max_request_memory: bytes
    """

    def __init__(self) -> None:
        self.slots = Slots(0)
        self.loop_time = LoopTime()
        self.max_request_memory = 0
        self._memory = 0

    def hold(self, size: int) -> None:
        """Make room for a request that waits or runs, until release().

        :param size: bytes of its text
        :raises Rejected: when there is too little
        """
        size = max(size, LEAST)
        if self._memory + size > self.max_request_memory:
            raise Rejected(
                f"busy: the requests that wait and run take {self._memory} "
                f"of at most {self.max_request_memory} bytes"
            )
        self._memory += size

    def release(self, size: int) -> None:
        self._memory -= max(size, LEAST)
