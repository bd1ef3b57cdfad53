"""Requests to the real daemon, answered as the protocol says."""

from __future__ import annotations

from typing import Callable

from tests.integration.conftest import ConfigFolder
from tests.parts import Client, Daemon, statuses

Start = Callable[..., Daemon]


def test_accepted_then_done(
    config: ConfigFolder, start: Start, client: Client
) -> None:
    config.task("echo", "echo", broker_args="hello world")
    start()
    request = client.send("echo")
    accepted, done = client.next(), client.next()
    for response in (accepted, done):
        assert response["ref"] == request["uuid"]
        assert response["task"] == "echo"
        assert response["src"] == "sp1"
        assert response["dst"] == "tests"
        assert (response["chunk"], response["chunks"]) == (1, 1)
        assert response["reason"] == ""
    assert (accepted["status"], accepted["data"]) == ("accepted", None)
    assert (done["status"], done["data"]) == ("done", "hello world\n")
    assert accepted["uuid"] != done["uuid"]
    assert accepted["timestamp"] <= done["timestamp"]
    assert client.silent()
    assert statuses(client.responses) == ["accepted", "done"]
