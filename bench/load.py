"""The load: clients that keep a number of requests open."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from typing import Any, Dict, List, Protocol

import redis

Figures = Dict[str, float]


class Server(Protocol):
    """A Redis, wherever it runs."""

    def connect(self) -> redis.Redis[bytes]: ...


def request(task: str, feedback: str, dst: str = "*") -> Dict[str, Any]:
    return {
        "uuid": str(uuid.uuid4()),
        "task": task,
        "src": "bench",
        "dst": dst,
        "options": {"feedback_channel": feedback},
    }


def run(
    server: Server, channel: str, task: str, at_once: int, requests: int
) -> Figures:
    """Keep ``at_once`` requests open until ``requests`` are done."""
    publisher = server.connect()
    feedback = f"bench-{uuid.uuid4()}"
    answers = server.connect().pubsub(ignore_subscribe_messages=True)
    answers.subscribe(feedback)
    answers.get_message(timeout=5)
    sent: Dict[str, float] = {}
    accepted: List[float] = []
    done: List[float] = []

    def send() -> None:
        message = request(task, feedback)
        sent[message["uuid"]] = time.perf_counter()
        publisher.publish(channel, json.dumps(message))

    begin = time.perf_counter()
    for _ in range(at_once):
        send()
    while len(done) < requests:
        message = answers.get_message(timeout=10)
        assert message, "no answer within 10 s"
        answer = json.loads(message["data"])
        took = time.perf_counter() - sent[answer["ref"]]
        if answer["status"] == "accepted":
            accepted.append(took)
            continue
        assert answer["status"] == "done", answer
        done.append(took)
        if len(sent) < requests:
            send()
    total = time.perf_counter() - begin
    answers.connection_pool.disconnect()
    publisher.connection_pool.disconnect()
    return {
        "requests/s": requests / total,
        "accepted p50, ms": statistics.median(accepted) * 1e3,
        "accepted p99, ms": statistics.quantiles(accepted, n=100)[98] * 1e3,
        "done p50, ms": statistics.median(done) * 1e3,
    }


def drain(server: Server, channel: str, task: str, messages: int) -> Figures:
    """Publish messages for other nodes, then one that is answered.

    All at once, so that the reader never waits.
    """
    feedback = f"bench-{uuid.uuid4()}"
    answers = server.connect().pubsub(ignore_subscribe_messages=True)
    answers.subscribe(feedback)
    answers.get_message(timeout=5)
    publisher = server.connect()
    foreign = [request(task, feedback, "elsewhere") for _ in range(messages)]
    pipeline = publisher.pipeline(transaction=False)
    for message in [*foreign, request(task, feedback)]:
        pipeline.publish(channel, json.dumps(message))
    begin = time.perf_counter()
    pipeline.execute()
    assert answers.get_message(timeout=60), "no answer within 60 s"
    total = time.perf_counter() - begin
    answers.connection_pool.disconnect()
    publisher.connection_pool.disconnect()
    return {"messages/s": messages / total}
