"""Responses: which messages are read or ignored, and how chunks are joined."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections import deque
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.client.responses import (
    Joiner,
    Message,
    Status,
    TooMuch,
    parse,
)
from ngcp_task_agent.protocol.messages import Origin, Response


def body(**fields: Any) -> bytes:
    message = {
        "uuid": "u",
        "ref": "r",
        "task": "t",
        "src": "sp1",
        "dst": "me",
        "timestamp": 1.5,
        "datetime": "",
        "chunk": 1,
        "chunks": 1,
        "status": "done",
        "reason": "",
        "data": "x",
    }
    return json.dumps({**message, **fields}).encode()


def chunk(
    number: int, chunks: int, data: Optional[str] = None, uuid: str = "u"
) -> Message:
    text = str(number) if data is None else data
    return Message(uuid, "r", "sp1", Status.DONE, "", text, number, chunks)


def test_response_of_an_agent_is_read() -> None:
    response = Response(Origin("r", "t", "me"), "sp1", "error", "why", "out")
    (encoded,) = response.encode(1 << 20)
    assert parse(encoded) == Message(
        response.uuid, "r", "sp1", Status.ERROR, "why", "out", 1, 1
    )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        body(ref=None),
        body(ref=7),
        body(src=""),
        body(src="x" * 256),
        body(src=None),
        body(uuid="x" * 256),
        body(status="well"),
        body(status=None),
        body(status=[]),
        body(chunk=0),
        body(chunk=2),
        body(chunk=True),
        body(chunk="1"),
        body(chunk=1, chunks=10**9),
    ],
)
def test_anything_else_is_ignored(message: bytes) -> None:
    assert parse(message) is None


@pytest.mark.parametrize(
    ("data", "text"),
    [("x", "x"), (None, ""), ({"a": 1}, '{"a": 1}'), (7, "7")],
)
def test_data_becomes_text(data: Any, text: str) -> None:
    message = parse(body(data=data))
    assert message
    assert message.data == text


LARGE = 2 << 20  # bytes


@pytest.mark.parametrize(
    "text", ["x", "[],", '{"a": "}', "\\", "\n", "\U0001f600"]
)
def test_large_data(text: str) -> None:
    data = text * (LARGE // len(text))
    message = parse(body(data=data, more="\\"))
    plain = parse(body())
    assert plain
    assert message == plain._replace(data=data)


@pytest.mark.parametrize(
    "text",
    [
        body(data=1)[:-2] + b"[" + b"[]," * LARGE + b"[]]}",
        body(data=1)[:-2] + b"[" + b"{}," * LARGE + b"{}]}",
        b'{"a": {"b": 1}, ' + b"[]," * LARGE,
        b"[" + b'"ab",' * LARGE + b'""]',
        b"{" + b'"%d": 1,' * LARGE + body()[1:],
        body()[:-1] + b', "b": 1' * LARGE,
        b" " * LARGE + body() + b"}",
    ],
    ids=["arrays", "objects", "object", "array", "names", "fields", "more"],
)
def test_large_messages_that_would_take_much_memory(text: bytes) -> None:
    tracemalloc.start()
    parse(text)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * len(text)


def test_accepted_has_no_data() -> None:
    message = parse(body(status="accepted", data="x", reason=None))
    assert message
    assert (message.data, message.reason) == (None, "")


def test_reason_is_cut() -> None:
    message = parse(body(status="error", reason="x" * 100_000))
    assert message
    assert len(message.reason) == 10_000


def test_message_without_uuid_and_chunks_is_whole() -> None:
    fields = json.loads(body())
    for key in ("uuid", "chunk", "chunks"):
        del fields[key]
    message = parse(json.dumps(fields).encode())
    assert message
    assert Joiner(1 << 20).take(message) == message


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_chunks_in_any_order(order: Any) -> None:
    joiner = Joiner(1 << 20)
    wholes = [joiner.take(chunk(number, 3)) for number in order]
    assert wholes[:2] == [None, None]
    assert wholes[2] == chunk(1, 1, "123")


def test_repeated_chunk() -> None:
    joiner = Joiner(1 << 20)
    assert joiner.take(chunk(1, 2)) is None
    assert joiner.take(chunk(1, 2, "other")) is None
    assert joiner.take(chunk(2, 2)) == chunk(1, 1, "12")


def test_chunk_of_another_count_is_ignored() -> None:
    joiner = Joiner(1 << 20)
    assert joiner.take(chunk(1, 2)) is None
    assert joiner.take(chunk(2, 3)) is None
    assert joiner.take(chunk(2, 2)) == chunk(1, 1, "12")


def test_responses_are_distinguished_by_uuid() -> None:
    joiner = Joiner(1 << 20)
    assert joiner.take(chunk(1, 2, "a", "one")) is None
    assert joiner.take(chunk(2, 2, "b", "two")) is None
    whole = joiner.take(chunk(2, 2, "c", "one"))
    assert whole
    assert whole.data == "ac"


def test_forgets_only_the_chunks_of_one_node() -> None:
    joiner = Joiner(10_000)
    for uuid in ("one", "two"):
        assert joiner.take(chunk(1, 2, "a", uuid)) is None
    assert joiner.take(chunk(1, 2, "a")._replace(src="sp2")) is None
    joiner.forget("sp1")
    assert joiner.take(chunk(2, 2, "b", "one")) is None
    whole = joiner.take(chunk(2, 2, "b")._replace(src="sp2"))
    assert whole
    assert whole.data == "ab"


def test_memory_is_bounded() -> None:
    joiner = Joiner(10_000)
    joiner.take(chunk(1, 3, "x" * 5000))
    with pytest.raises(TooMuch):
        joiner.take(chunk(2, 3, "x" * 5000))
    # What was kept of it is dropped: there is room again.
    assert joiner.take(chunk(1, 1, "x" * 5000, "other"))


def test_memory_of_many_small_chunks_is_bounded() -> None:
    joiner = Joiner(100_000)
    for number in range(1, 50):
        joiner.take(chunk(number, 1000, ""))
    with pytest.raises(TooMuch):
        deque((joiner.take(chunk(n, 1000, "")) for n in range(50, 999)), 0)


@given(st.text(), st.integers(min_value=0, max_value=2**32))
def test_chunks_of_the_agent_are_joined(data: str, seed: int) -> None:
    data = data.encode(errors="replace").decode()
    sent = Response(Origin("r", "t", "me"), "sp1", "done", "", data)
    messages = sent.encode(400)
    # Any order: rotated by the seed.
    start = seed % len(messages)
    joiner = Joiner(1 << 20)
    wholes = []
    for message in messages[start:] + messages[:start]:
        parsed = parse(message)
        assert parsed
        wholes.append(joiner.take(parsed))
    assert wholes[-1]
    assert wholes[-1].data == data
    assert not any(wholes[:-1])
