"""The writer: readers that are slow, that stop, and that go."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any, Iterator, TextIO, Tuple

import pytest

from ngcp_task_agent.client.cli.output import Output, OutputError
from ngcp_task_agent.client.cli.writer import Writer
from tests.parts import WITHIN

LONG = 60.0  # seconds that no test waits for
MUCH = "é" * 200_000  # more than a pipe takes

Pipe = Tuple[Any, TextIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """The two ends of a pipe."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as end, open(writer, "w") as stream:
        yield end, stream


async def read(reader: Any, size: int) -> bytes:
    """Read so many bytes, while others have their turn."""
    content = b""
    while len(content) < size:
        part = await asyncio.to_thread(reader.read, size - len(content))
        assert part
        content += part
    return content


async def test_everything_is_written_in_order(pipe: Pipe) -> None:
    reader, stream = pipe
    writer = Writer(stream)
    output = Output(writer, False)
    for text in ("one", "", MUCH, "\ud800", "end"):
        output.write(text)
    expected = f"one{MUCH}?end".encode()
    ending = asyncio.ensure_future(output.end(LONG))
    assert await read(reader, len(expected)) == expected
    await ending
    assert writer.is_idle
    writer.close(WITHIN)


async def test_reader_that_stops(pipe: Pipe) -> None:
    reader, stream = pipe
    writer = Writer(stream)
    output = Output(writer, False)
    output.write(MUCH)
    with pytest.raises(OutputError, match="nobody has read it for 0.2 s"):
        await output.end(0.2)
    assert not writer.is_idle
    # Nobody waits for the thread; here it is to be gone.
    reader.close()
    writer.close(WITHIN)
    assert writer.error


async def test_reader_that_goes(pipe: Pipe) -> None:
    reader, stream = pipe
    told = asyncio.Event()
    writer = Writer(stream)
    output = Output(writer, False)
    output.on_error(told.set)
    output.write(MUCH)
    reader.close()
    await told.wait()
    with pytest.raises(OutputError, match="Broken pipe") as caught:
        output.check()
    assert caught.value.errno == errno.EPIPE
    for attempt in (output.end(LONG), write(output)):
        with pytest.raises(OutputError, match="Broken pipe"):
            await attempt
    writer.close(WITHIN)


async def write(output: Output) -> None:
    output.write("more")


async def test_pipe_that_another_process_has_made_not_block(
    pipe: Pipe,
) -> None:
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    writer = Writer(stream)
    output = Output(writer, False)
    output.write(MUCH)
    ending = asyncio.ensure_future(output.end(LONG))
    assert await read(reader, len(MUCH.encode())) == MUCH.encode()
    await ending
    writer.close(WITHIN)


async def test_closed_output() -> None:
    closed = Output(Writer(None), False)
    with pytest.raises(OutputError, match="Bad file descriptor"):
        closed.write("x")
    # Whoever writes nothing does not notice.
    await closed.end(LONG)


async def test_no_thread_is_to_be_had(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    _, stream = pipe
    writer = Writer(stream)
    with monkeypatch.context() as context:
        context.setattr("threading.Thread.start", start)
        with pytest.raises(OutputError, match="no thread can be started"):
            Output(writer, False).write("x")
        writer.close(WITHIN)


async def test_what_others_write_to_it_is_not_waited_for(pipe: Pipe) -> None:
    reader, stream = pipe
    writer = Writer(stream)
    writer.put(MUCH, str.encode)
    await Output(writer, False).end(LONG)
    reader.close()
    writer.close(WITHIN)


def test_two_streams_to_one_place(pipe: Pipe) -> None:
    _, stream = pipe
    writer = Writer(stream)
    with os.fdopen(os.dup(stream.fileno()), "w") as same:
        assert writer.is_same(same)
    with open(os.devnull, "w") as other:
        assert not writer.is_same(other)
    assert not writer.is_same(None)
    assert not Writer(None).is_same(None)
    writer.close(WITHIN)
