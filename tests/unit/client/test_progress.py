"""Live output: lines from messages, and from the ending."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any, AsyncIterator, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.client import (
    Address,
    Client,
    LiveLine,
    Patience,
    Response,
    Status,
)
from ngcp_task_agent.client.progress import LONGEST_LINE, LiveLines
from tests.unit.fakes import CHANNEL, WITHIN, until
from tests.unit.resp import Server

PATIENCE = Patience(timeout=WITHIN, answer_timeout=WITHIN, settle=0.05)


def message(number: int, data: str, **more: Any) -> bytes:
    fields = {"ref": "r", "task": "t", "src": "a", "stream": "stdout"}
    return encoded({**fields, "number": number, "data": data, **more})


def encoded(fields: Dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def taken(lines: LiveLines) -> List[Tuple[str, int]]:
    found = []
    while lines:
        line = lines.pop()
        found.append((line.text, line.omitted))
    return found


def at_end(
    lines: LiveLines, data: str, status: Status = Status.DONE
) -> List[str]:
    return [
        line.text for line in lines.end(Response("a", status, "", data, 1))
    ]


def test_whole_lines() -> None:
    lines = LiveLines("r")
    lines.take(message(1, "one\n\ntw"))
    assert taken(lines) == [("one", 0), ("", 0)]
    lines.take(message(2, "o\n"))
    lines.take(message(3, "warn", stream="stderr"))
    assert lines.pop() == LiveLine("a", "stdout", "two")
    assert not lines
    ends = list(lines.end(Response("a", Status.DONE, "", "one\n\ntwo\nx", 1)))
    assert ends == [
        LiveLine("a", "stdout", "x"),
        LiveLine("a", "stderr", "warn"),
    ]


def test_ending_before_the_last_lines() -> None:
    lines = LiveLines("r")
    lines.take(message(1, "one\ntw"))
    taken(lines)
    assert at_end(lines, "one\ntwo\nthree\n") == ["two", "three"]
    # These come late, and not twice.
    lines.take(message(2, "o\nthree\n"))
    assert taken(lines) == []
    lines.take(message(3, "late", stream="stderr"))
    assert taken(lines) == [("late", 0)]


def test_node_without_live_output() -> None:
    lines = LiveLines("r")
    assert at_end(lines, "one\ntwo", Status.ERROR) == ["one", "two"]
    assert at_end(LiveLines("r"), "", Status.REJECTED) == []
    assert at_end(LiveLines("r"), "x", Status.ACCEPTED) == []


def test_what_was_left_out() -> None:
    lines = LiveLines("r")
    lines.take(message(1, "begun"))
    lines.take(message(2, "next\n", omitted=70))
    assert taken(lines) == [("begun", 0), ("next", 70)]
    # What is missing in between cannot be found in the data.
    assert at_end(lines, "begun and much more\nnext\nlast\n") == []
    lines.take(message(3, "last\n"))
    assert taken(lines) == [("last", 0)]


def test_left_out_at_the_end() -> None:
    lines = LiveLines("r")
    lines.take(message(1, "", omitted=70))
    (last,) = lines.end(Response("a", Status.DONE, "", "x", 1))
    assert last == LiveLine("a", "stdout", "", 70)


def test_lost_message_is_no_reason_to_repeat() -> None:
    lines = LiveLines("r")
    lines.take(message(1, "one\n"))
    lines.take(message(3, "three\n"))
    assert taken(lines) == [("one", 0), ("three", 0)]
    assert at_end(lines, "one\ntwo\nthree\n") == []


@pytest.mark.parametrize("size", [LONGEST_LINE, LONGEST_LINE + 1])
def test_line_that_is_too_long_is_several(size: int) -> None:
    lines = LiveLines("r")
    lines.take(message(1, "x" * size))
    assert taken(lines) == [("x" * size, 0)]
    lines.take(message(2, "\nnext\n\n"))
    assert taken(lines) == [("next", 0), ("", 0)]
    assert at_end(lines, "x" * size + "\nnext\n\n") == []


def test_slow_reader_loses_the_oldest() -> None:
    lines = LiveLines("r", limit=10_000)
    for number in range(1, 101):
        lines.take(message(number, f"{number:09}\n"))
    kept = taken(lines)
    assert 10 < len(kept) < 60
    assert kept[-1] == ("000000100", 0)
    # All bytes are there, or counted.
    assert kept[0][1] == 10 * (100 - len(kept))
    assert not any(omitted for _, omitted in kept[1:])


def test_all_lines_are_dropped() -> None:
    lines = LiveLines("r", limit=100)
    lines.take(message(1, "one\ntwo\n"))
    assert taken(lines) == []
    last = list(lines.end(Response("a", Status.DONE, "", "one\ntwo\n", 1)))
    assert last == [LiveLine("a", "stdout", "", 8)]


def test_begun_lines_are_bounded() -> None:
    lines = LiveLines("r", limit=100_000)
    for number in range(1000):
        lines.take(message(1, "x" * 1000, src=f"n{number}"))
    left = list(lines.close())
    assert sum(len(line.text) for line in left) <= 100_000
    assert sum(len(line.text) + line.omitted for line in left) >= 1_000_000


@pytest.mark.parametrize(
    "more",
    [
        {"ref": "other"},
        {"ref": None},
        {"src": ""},
        {"src": "x" * 300},
        {"src": 7},
        {"stream": "stdin"},
        {"stream": ["stdout"]},
        {"number": "1"},
        {"number": True},
        {"data": None},
        {"omitted": -1},
        {"omitted": "7"},
        {"omitted": 1 << 80},
    ],
)
def test_messages_that_are_none(more: Dict[str, Any]) -> None:
    lines = LiveLines("r")
    lines.take(encoded({**json.loads(message(1, "x\n")), **more}))
    for body in (b"", b"[]", b"[" * 100_000, b"\xff", b'{"ref": "r"}'):
        lines.take(body)
    assert not lines
    assert list(lines.close()) == []


@given(
    data=st.text("ab\n", max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    arrived=st.integers(0, 6),
)
def test_each_line_comes_once(
    data: str, cuts: List[int], arrived: int
) -> None:
    """Whatever arrives before the ending, after it, or never."""
    bounds = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    messages = [
        message(number, data[begin:end])
        for number, (begin, end) in enumerate(zip(bounds, bounds[1:]), 1)
    ]
    lines = LiveLines("r")
    for body in messages[:arrived]:
        lines.take(body)
    found = [text for text, _ in taken(lines)]
    found += at_end(lines, data)
    for body in messages[arrived:]:
        lines.take(body)
    found += [text for text, _ in taken(lines)]
    expected = data.split("\n")
    assert found == (expected if expected[-1] else expected[:-1])


@contextlib.asynccontextmanager
async def connected(
    folder: Path,
) -> AsyncIterator[Tuple[Server, Client]]:
    server = Server(folder)
    await server.start()
    try:
        async with Client(
            Address(server.options, CHANNEL, "me"), ping_interval=0.2
        ) as client:
            yield server, client
    finally:
        await server.stop()


def respond(server: Server, client: Client, status: str, data: str) -> None:
    request = json.loads(server.messages[-1])
    fields = {"uuid": status, "ref": request["uuid"], "src": "a"}
    fields.update(status=status, reason="", data=data)
    server.push(client.feedback_channel, json.dumps(fields).encode())


def write(server: Server, number: int, data: str) -> None:
    request = json.loads(server.messages[-1])
    channel = request["options"]["progress_channel"]
    server.push(channel, message(number, data, ref=request["uuid"]))


async def test_follow(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, client):
        call = client.send("t", "*", patience=PATIENCE, live=True)
        items = call.follow()
        first = asyncio.ensure_future(items.__anext__())
        await until(lambda: server.published)
        respond(server, client, "accepted", "")
        assert (await first).status is Status.ACCEPTED
        write(server, 1, "one\n")
        assert await items.__anext__() == LiveLine("a", "stdout", "one")
        respond(server, client, "done", "one\ntwo\n")
        assert await items.__anext__() == LiveLine("a", "stdout", "two")
        assert (await items.__anext__()).status is Status.DONE
        with pytest.raises(StopAsyncIteration):
            await items.__anext__()
        assert call.outcome.succeeded
        assert call.live_lost == ""
        # The connection of its own is closed.
        await until(lambda: server.subscribed == {client.feedback_channel})


async def test_lost_live_output_is_no_failure(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, client):
        call = client.send("t", "*", patience=PATIENCE, live=True)
        lines = call.lines()
        first = asyncio.ensure_future(lines.__anext__())
        await until(lambda: server.published)
        write(server, 1, "one\n")
        assert (await first).text == "one"
        request = json.loads(server.messages[-1])
        channel = request["options"]["progress_channel"]
        assert channel != client.feedback_channel
        server.write_to(channel, b"?\r\n")
        await until(lambda: channel not in server.subscribed)
        respond(server, client, "done", "one\ntwo\n")
        assert [line.text async for line in lines] == ["two"]
        assert call.outcome.succeeded
        assert call.live_lost


async def test_live_output_that_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, client):
        server.replies["SUBSCRIBE"] = [b"-NOPERM no such channel\r\n"]
        call = client.send("t", "*", patience=PATIENCE, live=True)
        task = asyncio.ensure_future(_texts(call.lines()))
        await until(lambda: server.published)
        respond(server, client, "done", "one\ntwo\n")
        assert await asyncio.wait_for(task, WITHIN) == ["one", "two"]
        assert "no such channel" in call.live_lost


async def test_lines_without_live_output(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, client):
        call = client.send("t", "*", patience=PATIENCE)
        task = asyncio.ensure_future(_texts(call.lines()))
        await until(lambda: server.published)
        assert "progress_channel" not in json.loads(server.messages[-1])
        respond(server, client, "done", "one\ntwo\n")
        assert await asyncio.wait_for(task, WITHIN) == ["one", "two"]


@pytest.mark.parametrize("how", ["break", "cancel", "stop"])
async def test_live_output_that_is_broken_off(
    how: str, tmp_path: Path
) -> None:
    async with connected(tmp_path) as (server, client):
        call = client.send("t", "*", patience=PATIENCE, live=True)

        async def some() -> None:
            async for _ in call.lines():
                if how == "break":
                    break
                if how == "stop":
                    call.stop()

        task = asyncio.ensure_future(some())
        await until(lambda: server.published)
        write(server, 1, "one\n")
        if how == "cancel":
            await asyncio.sleep(0.1)
            task.cancel()
        await asyncio.wait({task})
        # The connection of its own is closed,
        await until(lambda: server.subscribed == {client.feedback_channel})
        if how != "stop":
            # but the call can go on.
            respond(server, client, "done", "one\ntwo\n")
            assert await _texts(call.lines()) == ["two"]
    assert call.live_lost == ""
    assert server.clients == 0


async def test_client_closes_live_output(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, client):
        call = client.send("t", "*", patience=PATIENCE, live=True)
        first = asyncio.ensure_future(call.__anext__())
        await until(lambda: server.published)
        respond(server, client, "accepted", "")
        await first
    assert server.clients == 0


async def _texts(lines: AsyncIterator[LiveLine]) -> List[str]:
    return [line.text async for line in lines]
