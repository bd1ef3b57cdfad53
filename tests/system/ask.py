"""Sends a request, and prints each answer as it arrives.

Runs on the tested machine: ``ask.py MESSAGE ENDINGS NODES SECONDS``.  Waits
until the request has had that many endings.  Then it requests a task that no
node has: each node's rejection comes after all its answers to the first
request.
"""

import json
import sys
import time
import uuid
from typing import Any, Dict, Iterator

import redis

message, endings, nodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
deadline = time.monotonic() + float(sys.argv[4])
request = json.loads(message)
last = {**request, "uuid": str(uuid.uuid4()), "dst": "*", "task": "nobody's"}

client = redis.Redis(host="127.0.0.1")
feedback = client.pubsub()
feedback.subscribe(request["options"]["feedback_channel"])


def send(what: Dict[str, Any]) -> None:
    client.publish("ngcp-task-agent-redis", json.dumps(what))


def answers() -> Iterator[Dict[str, Any]]:
    while time.monotonic() < deadline:
        got = feedback.get_message(timeout=1)
        if got and got["type"] == "subscribe":
            send(request)
            if not endings:
                send(last)
        elif got:
            yield json.loads(got["data"])
    sys.exit("the time is up")


ended = refused = 0
for answer in answers():
    if answer["ref"] == last["uuid"]:
        refused += 1
        if refused == nodes:
            break
        continue
    print(json.dumps(answer), flush=True)
    ended += answer["status"] != "accepted"
    if answer["status"] != "accepted" and ended == endings:
        if not nodes:
            break
        send(last)
