"""What the answers to one request cost the client, in processor time.

``python3 -m bench.answers`` plays 5000 nodes that each accept and end.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Iterator

from ngcp_task_agent.client import Address, Call, Client, Patience, Verdict
from tests.unit.fakes import until
from tests.unit.resp import Server

NODES = 5000


def _answers(ref: str) -> Iterator[bytes]:
    for status in ("accepted", "done"):
        for number in range(NODES):
            fields = {"uuid": f"{number}-{status}", "ref": ref, "task": "t"}
            fields.update(src=f"n{number:04}", status=status, reason="")
            yield json.dumps({**fields, "data": "x" * 100}).encode()


async def _measure(dst: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        await server.start()
        try:
            address = Address(server.options, "bench", "bench")
            async with Client(address) as client:
                call = client.send("t", dst, patience=Patience(timeout=60.0))
                following = asyncio.ensure_future(_follow(call))
                await until(lambda: server.published)
                ref = json.loads(server.messages[-1])["uuid"]
                bodies = list(_answers(ref))
                begin = time.process_time()
                # The pushing side counts, too: it is in this process.
                for body in bodies:
                    server.push(client.feedback_channel, body)
                await following
                seconds = time.process_time() - begin
                assert call.outcome.verdict is Verdict.DONE
                assert len(call.outcome.done) == NODES
                return seconds
        finally:
            await server.stop()


async def _follow(call: Call) -> None:
    async for _ in call:
        pass


def main() -> None:
    names = ",".join(f"n{number:04}" for number in range(600))
    for what, dst in (("*", "*"), ("600 names", f"{names},n*")):
        seconds = asyncio.run(_measure(dst))
        print(f"{NODES} nodes, dst {what}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
