"""Requests and responses, under the name that plugins import."""

from __future__ import annotations

from ngcp_task_agent.protocol.messages import Request, Response

__all__ = ["Request", "Response"]
