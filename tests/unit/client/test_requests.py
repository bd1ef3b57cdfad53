"""Invalid requests are refused before they are sent."""

from __future__ import annotations

import json
from typing import Any, Dict

import pytest

from ngcp_task_agent.client import InvalidRequest, Request
from ngcp_task_agent.client.requests import explain_numbers
from ngcp_task_agent.protocol.messages import parse_request


def test_agents_accept_the_message() -> None:
    request = Request(
        "reload", "web01a", "prx*", {"n": 1}, {"headers": {"x": "y"}}
    )
    body = request.encode("fb")
    read = parse_request(body, 1 << 20)
    assert (read.uuid, read.task) == (request.uuid, "reload")
    assert (read.src, read.dst, read.data) == ("web01a", "prx*", {"n": 1})
    assert read.options == {"headers": {"x": "y"}, "feedback_channel": "fb"}


def test_each_request_has_its_own_uuid() -> None:
    assert Request("a", "b").uuid != Request("a", "b").uuid


def test_any_text_is_sent_as_ascii() -> None:
    body = Request("ä", "ö", data="\ud800").encode("fb")
    assert body.isascii()
    assert json.loads(body)["task"] == "ä"


DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]

INVALID = [
    pytest.param({"task": ""}, "task", id="task-empty"),
    pytest.param({"task": "x" * 129}, "task", id="task-long"),
    pytest.param({"task": "a\0b"}, "task", id="task-nul"),
    pytest.param({"src": ""}, "src", id="src-empty"),
    pytest.param({"dst": ""}, "dst", id="dst-empty"),
    pytest.param({"dst": "x" * 4097}, "dst", id="dst-long"),
    pytest.param({"dst": "a,,b"}, "target 2", id="dst-malformed"),
    pytest.param({"dst": "*|state"}, "'state'", id="dst-no-value"),
    pytest.param({"data": {1, 2}}, "JSON", id="data-set"),
    pytest.param({"data": float("nan")}, "JSON", id="data-nan"),
    pytest.param({"data": b"x"}, "JSON", id="data-bytes"),
    pytest.param({"data": DEEP}, "levels deep", id="data-deep"),
    pytest.param({"uuid": "7"}, "uuid", id="uuid"),
    pytest.param({"options": "x"}, "options", id="options-string"),
]


@pytest.mark.parametrize(("fields", "reason"), INVALID)
def test_invalid(fields: Dict[str, Any], reason: str) -> None:
    request = Request(**{"task": "t", "src": "s", **fields})
    with pytest.raises(InvalidRequest, match=reason):
        request.encode("fb")


@pytest.mark.parametrize(
    ("dst", "warned_of"),
    [
        ("prx[8-11]", "[8-11] matches one character, not a number from 8 to"),
        ("lb1,*|site=a[!10-12]b", "[10-12]"),
        ("prx[ab08-9]", "[08-9]"),
        ("prx[0-9]", ""),
        ("prx[0-9][0-9]*", ""),
        ("prx[a-c1]", ""),
        ("prx8-11", ""),
        ("[a]10-12[b]", ""),
        # Unclosed brackets are ordinary characters.
        ("prx[8-11", ""),
        ("a[1,b10-22]", ""),
    ],
)
def test_range_of_numbers_of_several_digits(dst: str, warned_of: str) -> None:
    warning = explain_numbers(dst)
    assert warned_of in warning
    assert bool(warning) == bool(warned_of)
    # It is still sent.
    assert Request("t", "s", dst).encode("fb")


def test_data_that_contains_itself() -> None:
    data: Any = []
    data.append(data)
    with pytest.raises(InvalidRequest, match="JSON"):
        Request("t", "s", data=data).encode("fb")
