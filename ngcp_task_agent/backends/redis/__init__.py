"""The ``redis`` backend: requests and answers over Redis pub/sub.

One connection is subscribed to the control channels (subscriber.py); answers
leave over two others (lane.py), exactly once (publisher.py).
"""

from __future__ import annotations

from ngcp_task_agent.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
