"""Errors that keep a request from being sent or answered, as a tree.

ClientError
├── InvalidRequest      the request cannot be sent as it is
├── NoAddress           the configuration does not say where to send it
└── RedisUnavailable    Redis cannot be reached, or refuses
    └── ConnectionLost      ... after the request may have been sent

A task that is rejected or fails raises nothing: the outcome says so.
"""

from __future__ import annotations

from ngcp_task_agent.errors import AgentError


class ClientError(AgentError):
    """The root: ``str()`` is a sentence that says what to correct."""


class InvalidRequest(ClientError):
    """Every agent would reject it, or it cannot be written as JSON."""


class NoAddress(ClientError):
    """The backend is missing or cannot be used or read, or several fit."""


class RedisUnavailable(ClientError):
    """Nothing was sent."""


class ConnectionLost(RedisUnavailable):
    """Nodes may have received the request; their answers cannot arrive."""
