"""Sends a request, and prints each answer to it as it comes.

Runs on the machine that is tested: ``ask.py MESSAGE NODES SECONDS``.  Ends
when so many nodes have ended the request, or when the time is up.
"""

import json
import sys
import time

import redis

message, nodes, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
request = json.loads(message)
deadline = time.monotonic() + seconds
client = redis.Redis(host="127.0.0.1")
feedback = client.pubsub()
feedback.subscribe(request["options"]["feedback_channel"])
ended = 0
while time.monotonic() < deadline and (ended < nodes or nodes == 0):
    got = feedback.get_message(timeout=1)
    if not got:
        continue
    if got["type"] == "subscribe":
        client.publish("ngcp-task-agent-redis", message)
    elif got["type"] == "message":
        print(got["data"].decode(), flush=True)
        ended += json.loads(got["data"])["status"] != "accepted"
