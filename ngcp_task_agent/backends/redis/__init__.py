"""The ``redis`` backend: requests and answers over Redis pub/sub.

One connection (subscriber.py) is subscribed to the control channels.  Answers
wait in an outbox (outbox.py) and leave in two lanes (lane.py), each over a
connection that only publishes (publisher.py), exactly once (producer.py).
"""

from __future__ import annotations

from ngcp_task_agent.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
