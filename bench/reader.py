"""A script that only reads messages and parses their JSON.

It answers those for any node, so that one can see when it has read all.
"""

from __future__ import annotations

import asyncio
import json
import sys

import redis.asyncio as redis


async def main(port: int, channel: str) -> None:
    connection = redis.Redis(port=port)
    subscription = connection.pubsub()
    await subscription.subscribe(channel)
    async for message in subscription.listen():
        if message["type"] == "message":
            request = json.loads(message["data"])
            if request["dst"] == "*":
                feedback = request["options"]["feedback_channel"]
                await connection.publish(feedback, "done")


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
    except KeyboardInterrupt:
        pass
