"""The ``redis`` backend: requests and answers over Redis pub/sub.

One connection is subscribed to the control channels (subscriber.py); answers
leave over two others (lane.py), exactly once (publisher.py).
"""

from __future__ import annotations

from ngcp_task_agent.deferred import defer

# Before anything in this package, or in the client, imports a part of them.
defer("redis")
defer("redis.asyncio")

from ngcp_task_agent.backends.redis.backend import RedisBackend  # noqa: E402

__all__ = ["RedisBackend"]
