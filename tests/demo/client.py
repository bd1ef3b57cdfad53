"""A plain Redis client that asks for a ping and shows what comes back."""

import json
import sys
import time
import uuid

import redis

CONTROL, FEEDBACK = "ngcp-task-agent-redis", "fb_ctrl_7056"


def connect(socket: str) -> "redis.Redis[bytes]":
    deadline = time.monotonic() + 30
    while True:
        client = redis.Redis(unix_socket_path=socket)
        try:
            # The agent is ready when it listens on the control channel.
            if client.pubsub_numsub(CONTROL)[0][1]:
                return client
        except redis.ConnectionError:
            pass
        if time.monotonic() > deadline:
            sys.exit("the agent does not listen; see its log above")
        time.sleep(0.05)


def main() -> int:
    client = connect(sys.argv[1])
    responses = client.pubsub(ignore_subscribe_messages=True)
    responses.subscribe(FEEDBACK)
    responses.get_message(timeout=5)
    request = {
        "uuid": str(uuid.uuid4()),
        "task": "ping_127_0_0_1",
        "src": "sp1",
        "dst": "*",
        "options": {"feedback_channel": FEEDBACK},
        "data": None,
    }
    print(f"\n# published to {CONTROL}:\n{json.dumps(request, indent=4)}")
    client.publish(CONTROL, json.dumps(request))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        message = responses.get_message(timeout=1)
        if not message:
            continue
        response = json.loads(message["data"])
        print(
            f"\n# received from {FEEDBACK}:\n{json.dumps(response, indent=4)}"
        )
        if response["status"] != "accepted":
            if response["data"]:
                print(f"\n# its data:\n{response['data']}")
            return 0 if response["status"] == "done" else 1
    print("no ending within 30 s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
