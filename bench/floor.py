"""The bare minimum of the agent's work: a baseline for its speed.

For each message, it starts a process and publishes ``accepted`` and ``done``.
It validates nothing, logs nothing, and has no timeouts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any, Dict, List, Set, Tuple

import redis.asyncio as redis

AT_ONCE = 8  # the default max_running of a task


class Floor:
    def __init__(self, port: int) -> None:
        self.redis = redis.Redis(port=port)
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.outbox: asyncio.Queue[Tuple[str, str]] = asyncio.Queue()
        self.jobs: Set[asyncio.Task[Any]] = set()

    def answer(
        self, request: Dict[str, Any], status: str, data: Any = None
    ) -> None:
        response = {
            "uuid": str(uuid.uuid4()),
            "ref": request["uuid"],
            "status": status,
            "data": data,
        }
        channel = request["options"]["feedback_channel"]
        self.outbox.put_nowait((channel, json.dumps(response)))

    async def publish(self) -> None:
        while True:
            batch: List[Tuple[str, str]] = [await self.outbox.get()]
            while not self.outbox.empty():
                batch.append(self.outbox.get_nowait())
            pipeline = self.redis.pipeline(transaction=False)
            for channel, message in batch:
                pipeline.publish(channel, message)
            await pipeline.execute()

    async def job(self, request: Dict[str, Any]) -> None:
        self.answer(request, "accepted")
        async with self.slots:
            process = await asyncio.create_subprocess_exec(
                "/bin/true",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
        self.answer(request, "done", output.decode())

    def background(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self.jobs.add(task)
        task.add_done_callback(self.jobs.discard)

    async def run(self, channel: str) -> None:
        self.background(self.publish())
        subscription = self.redis.pubsub()
        await subscription.subscribe(channel)
        async for message in subscription.listen():
            if message["type"] == "message":
                self.background(self.job(json.loads(message["data"])))


async def main() -> None:
    if sys.version_info < (3, 12):
        # As in later versions, and a fifth faster than the default here.
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)
    await Floor(int(sys.argv[1])).run(sys.argv[2])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
