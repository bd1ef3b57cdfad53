"""Requests and responses, under the name that plugins import."""

from __future__ import annotations

from ngcp_task_agent.protocol.messages import (
    MAX_DEPTH,
    MAX_NESTED,
    MAX_REASON,
    Malformed,
    Origin,
    Request,
    Response,
    load_json,
    parse_request,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_NESTED",
    "MAX_REASON",
    "Malformed",
    "Origin",
    "Request",
    "Response",
    "load_json",
    "parse_request",
]
