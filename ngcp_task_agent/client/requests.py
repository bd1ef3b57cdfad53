"""Outgoing requests, checked as the agents will check them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping

from ngcp_task_agent.backends.redis.options import (
    LONGEST_CHANNEL,
    valid_channel,
)
from ngcp_task_agent.client.errors import InvalidRequest
from ngcp_task_agent.errors import Rejected
from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.messages import new_uuid, parse_request

# Within brackets, but not across separators of targets or options.
_NUMBERS = re.compile(r"\[[^\],|;+]*?(\d\d+-\d+|\d+-\d\d+)[^\],|;+]*\]")


@dataclass(frozen=True)
class OutgoingRequest:
    """A request to run a task.

    :param task: its name
    :param src: the client's name for itself
    :param dst: the nodes to run it, see ngcp-task-agent-protocol(7)
    :param data: a JSON value; its meaning is up to the task
    :param options: more options for the backends
    """

    task: str
    src: str
    dst: str = "localhost"
    data: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    uuid: str = field(default_factory=new_uuid)

    def encode(
        self, feedback_channel: str, progress_channel: str = ""
    ) -> bytes:
        """Encode the message, which asks for answers on this channel.

        :param progress_channel: where to send live output, if given
        :raises InvalidRequest: when every agent would reject it
        """
        if not isinstance(self.options, Mapping):
            raise InvalidRequest("options must be a mapping")
        options = {**self.options, "feedback_channel": feedback_channel}
        if progress_channel:
            options["progress_channel"] = progress_channel
        message: Dict[str, Any] = {
            "uuid": self.uuid,
            "task": self.task,
            "src": self.src,
            "dst": self.dst,
            "options": options,
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


def explain_numbers(dst: str) -> str:
    """Warn of a range such as ``prx[8-11]``; empty if there is none.

    To fnmatch it is one character, of ``8-1`` and ``1``.
    """
    found = _NUMBERS.search(dst)
    if not found:
        return ""
    return (
        f"dst: [{found[1]}] matches one character, not a number from "
        f"{found[1].replace('-', ' to ')}: list the names, separated by commas"
    )


def check_channel(channel: Any) -> None:
    """
    :raises InvalidRequest: when no agent can subscribe to this channel
    """
    if not valid_channel(channel):
        raise InvalidRequest(
            f"channel must be a string of 1 to {LONGEST_CHANNEL} characters "
            "that can be encoded as UTF-8"
        )
