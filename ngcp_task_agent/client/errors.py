"""What can keep a request from being sent or answered, as a tree.

ClientError
├── InvalidRequest      cannot be sent as it is; says which part is at fault
├── NoAddress           the configuration does not say where to send it
└── RedisUnavailable    Redis is not to be reached, or refuses
    └── ConnectionLost      ... after the request may have been sent

A task that is rejected or fails is no exception: its outcome says so.
"""

from __future__ import annotations

from ngcp_task_agent.errors import AgentError


class ClientError(AgentError):
    """The root: ``str()`` is a sentence that a person can act on."""


class InvalidRequest(ClientError):
    """Every agent would refuse it, or it is no JSON."""


class NoAddress(ClientError):
    """There is no such backend, or several would do."""


class RedisUnavailable(ClientError):
    """Nothing was sent."""


class ConnectionLost(RedisUnavailable):
    """Nodes may have taken the request; their answers cannot come."""
