"""The writer: readers that are slow, that stop, and that go."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Iterator, TextIO, Tuple

import pytest

from ngcp_task_agent.client.cli.writer import WriteError, Writer
from ngcp_task_agent.display import encode_as_it_is
from tests.parts import WITHIN

LONG = 60.0  # seconds; no test waits this long
MUCH = "é" * 200_000  # more than a pipe holds

Pipe = Tuple[Any, TextIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """The two ends of a pipe."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as end, open(writer, "w") as stream:
        yield end, stream


async def read(reader: Any, size: int) -> bytes:
    """Read this many bytes, while other tasks run."""
    content = b""
    while len(content) < size:
        part = await asyncio.to_thread(reader.read, size - len(content))
        assert part
        content += part
    return content


def put(writer: Writer, text: str) -> None:
    writer.put(text, encode_as_it_is)


async def test_everything_is_written_in_order(pipe: Pipe) -> None:
    reader, stream = pipe
    writer = Writer(stream)
    for text in ("one", "", MUCH, "\ud800", "end"):
        put(writer, text)
    expected = f"one{MUCH}?end".encode()
    ending = asyncio.ensure_future(writer.drain(LONG))
    assert await read(reader, len(expected)) == expected
    assert await ending
    assert writer.is_idle


async def test_reader_that_stops(pipe: Pipe) -> None:
    reader, stream = pipe
    writer = Writer(stream)
    put(writer, MUCH)
    assert not await writer.drain(0.2)
    assert not await writer.drain(LONG, 0.2)
    assert not writer.is_idle
    # The command does not wait for the thread, but this test must not leave
    # it.
    reader.close()
    writer.wait(WITHIN)
    assert writer.error


async def test_reader_that_closes(pipe: Pipe) -> None:
    reader, stream = pipe
    loop = asyncio.get_running_loop()
    failed = asyncio.Event()
    writer = Writer(stream)
    writer.on_error = lambda: loop.call_soon_threadsafe(failed.set)
    put(writer, MUCH)
    reader.close()
    await failed.wait()
    with pytest.raises(WriteError, match="Broken pipe") as caught:
        writer.check()
    assert caught.value.is_closed
    with pytest.raises(WriteError, match="Broken pipe"):
        await writer.drain(LONG)
    with pytest.raises(WriteError, match="Broken pipe"):
        put(writer, "more")
    writer.wait(WITHIN)


async def test_pipe_made_non_blocking_by_another_process(
    pipe: Pipe,
) -> None:
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    writer = Writer(stream)
    put(writer, MUCH)
    ending = asyncio.ensure_future(writer.drain(LONG))
    assert await read(reader, len(MUCH.encode())) == MUCH.encode()
    assert await ending


def test_closed_output() -> None:
    with pytest.raises(WriteError, match="Bad file descriptor"):
        put(Writer(None), "x")


def test_thread_cannot_be_started(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    _, stream = pipe
    with monkeypatch.context() as context:
        context.setattr("threading.Thread.start", start)
        with pytest.raises(WriteError, match="no thread can be started"):
            put(Writer(stream), "x")


def test_two_streams_to_one_place(pipe: Pipe) -> None:
    _, stream = pipe
    writer = Writer(stream)
    with open(os.dup(stream.fileno()), "w") as same:
        assert writer.is_same(same)
    with open(os.devnull, "w") as other:
        assert not writer.is_same(other)
    assert not writer.is_same(None)
    assert not Writer(None).is_same(None)
