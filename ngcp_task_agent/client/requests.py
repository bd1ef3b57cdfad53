"""Request: what a client sends, checked as the agents will check it."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping

from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.messages import parse_request

_LONGEST_CHANNEL = 512  # characters, as agents have it


@dataclass(frozen=True)
class Request:
    """Run a task.

    :param task: its name
    :param src: the client's name for itself
    :param dst: the nodes that are to act, see the protocol
    :param data: what JSON can say; what it means is the task's affair
    :param options: more options for the backends
    """

    task: str
    src: str
    dst: str = "localhost"
    data: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def encode(self, feedback_channel: str) -> bytes:
        """The message that asks for answers on this channel.

        :raises InvalidRequest: when no agent would take it
        """
        if not isinstance(self.options, Mapping):
            raise InvalidRequest("options must be a mapping")
        message: Dict[str, Any] = {
            "uuid": self.uuid,
            "task": self.task,
            "src": self.src,
            "dst": self.dst,
            "options": {**self.options, "feedback_channel": feedback_channel},
            "data": self.data,
        }
        try:
            body = json.dumps(message, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"data cannot be JSON: {error}") from None
        try:
            parse_request(body, len(body))
            destination.parse(self.dst)
        except Rejected as fault:
            raise InvalidRequest(str(fault)) from None
        return body


def check_channel(channel: Any) -> None:
    """
    :raises InvalidRequest: when no agent can listen there
    """
    if (
        not isinstance(channel, str)
        or not 1 <= len(channel) <= _LONGEST_CHANNEL
        # Half a surrogate pair is no text.
        or re.search("[\ud800-\udfff]", channel)
    ):
        raise InvalidRequest(
            f"channel must be a string of 1 to {_LONGEST_CHANNEL} characters "
            "that UTF-8 can tell"
        )
