"""Policy: which requests a task takes."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional

from ngcp_task_agent.brokers.base import Broker, Work
from ngcp_task_agent.config.models import TaskConfig
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.protocol.messages import Request
from ngcp_task_agent.protocol.pattern import Pattern
from ngcp_task_agent.requests.check_time import CheckTime, LoopTime


class Policy:
    """Checks the source and the data of a task's requests."""

    def __init__(
        self, config: TaskConfig, broker: Broker, loop_time: LoopTime
    ) -> None:
        self.broker = broker
        self._time = CheckTime(loop_time)
        self._allow_src = (
            None
            if config.allow_src is None
            else tuple(map(Pattern, config.allow_src))
        )
        self._validate: Optional[Callable[[Any], None]] = None
        if config.data_schema is not None:
            # jsonschema takes long to load.
            from ngcp_task_agent.requests import validate

            validator = validate.validator(config.data_schema)
            self._validate = functools.partial(validate.check_data, validator)

    def check(self, request: Request) -> Work:
        """Return the work for a request.

        :raises Rejected: naming the rule that the request breaks
        """
        allowed = self._allow_src
        if allowed is not None and not any(
            pattern.matches(request.src) for pattern in allowed
        ):
            raise Rejected(
                f"allow_src: '{request.src}' may not request this task"
            )
        if self._validate is None and request.data is None:
            return self.broker.prepare(request)  # nothing to check
        return self._time.run(lambda: self._check_data(request))

    def _check_data(self, request: Request) -> Work:
        if self._validate is not None:
            self._validate(self.broker.data(request))
        return self.broker.prepare(request)
