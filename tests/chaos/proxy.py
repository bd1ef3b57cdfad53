"""A proxy: the line between an agent and Redis, which can be cut or slow."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import struct
import threading
import time
from typing import Any, Callable, Iterator, Optional, Set, TypeVar

_READ = 65536  # bytes per read
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST

Result = TypeVar("Result")


class Proxies:
    """The event loop of all proxies, in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, daemon=True
        )
        self._thread.start()

    def run(self, function: Callable[[], Result]) -> Result:
        """Call a function in the loop, and wait for its result."""
        done: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(call)
        return done.result()

    def stop(self) -> None:
        async def end_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end_all(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class _Line:
    """A connection through a proxy: to the agent and to the server."""

    def __init__(self, agent: asyncio.StreamWriter) -> None:
        self.agent = agent
        self.server: Optional[asyncio.StreamWriter] = None
        self.is_open = asyncio.Event()
        self.is_open.set()

    @property
    def port(self) -> int:
        """Of this end, as Redis sees it."""
        if self.server is None:
            return 0
        return int(self.server.get_extra_info("sockname")[1])

    def writers(self) -> Iterator[asyncio.StreamWriter]:
        yield self.agent
        if self.server:
            yield self.server

    def reset(self) -> None:
        for writer in self.writers():
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self.writers():
            writer.close()

    def close_half(self, to_server: bool) -> None:
        """Close one direction; the other stays open."""
        writer = self.server if to_server else self.agent
        if writer and not writer.is_closing():
            with contextlib.suppress(OSError):
                writer.write_eof()


class Proxy:
    """Forwards bytes to a server on this machine.

    :param server_port: the server's
    :ivar port: where the agent connects
    """

    def __init__(self, proxies: Proxies, server_port: int) -> None:
        self._proxies = proxies
        self._server_port = server_port
        self._is_refusing = True
        self._holds_new = False
        self._rate: Optional[float] = None
        self._free_at = 0.0
        self._lines: Set[_Line] = set()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self._server: asyncio.AbstractServer = (
            asyncio.run_coroutine_threadsafe(
                asyncio.start_server(self._carry, sock=listener),
                proxies.loop,
            ).result()
        )

    def refuse(self, refuses: bool) -> None:
        """Reset new connections, or accept them again."""
        self._proxies.run(lambda: self._set("_is_refusing", refuses))

    def ports(self) -> Set[int]:
        """Return the ports from which Redis sees connections."""
        return self._proxies.run(lambda: {line.port for line in self._lines})

    def reset(self, pick: float) -> int:
        """Cut one connection, or all, with RST; return how many."""
        return self._each(_Line.reset, pick)

    def close(self, pick: float) -> int:
        """Close with FIN instead, after sending what is in transit."""
        return self._each(_Line.close, pick)

    def close_half(self, pick: float, to_server: bool) -> int:
        """Close one direction with FIN."""
        return self._each(lambda line: line.close_half(to_server), pick)

    def hold(self, new_ones_too: bool) -> None:
        """Delay all bytes until release()."""

        def hold() -> None:
            self._holds_new = new_ones_too
            for line in self._lines:
                line.is_open.clear()

        self._proxies.run(hold)

    def release(self) -> None:
        def release() -> None:
            self._holds_new = False
            for line in self._lines:
                line.is_open.set()

        self._proxies.run(release)

    def slow(self, rate: Optional[float]) -> None:
        """Forward this many bytes a second; None for no limit."""
        self._proxies.run(lambda: self._set("_rate", rate))

    def stop(self) -> None:
        def stop() -> None:
            self._server.close()
            for line in self._lines:
                line.is_open.set()
                line.reset()

        self._proxies.run(stop)

    def _set(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def _each(self, do: Callable[[_Line], None], pick: float) -> int:
        """Call it for one connection, or for all."""

        def call() -> int:
            lines = sorted(self._lines, key=lambda line: line.port)
            if lines and pick < 0.6:
                lines = [lines[int(pick / 0.6 * len(lines))]]
            for line in lines:
                do(line)
            return len(lines)

        return self._proxies.run(call)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = _Line(writer)
        if self._is_refusing:
            line.reset()
            return
        if self._holds_new:
            line.is_open.clear()
        self._lines.add(line)
        try:
            await line.is_open.wait()
            from_server, line.server = await asyncio.open_connection(
                "127.0.0.1", self._server_port
            )
            await asyncio.gather(
                self._pump(line, reader, line.server),
                self._pump(line, from_server, writer),
            )
            line.close()
        except OSError:
            line.reset()
        finally:
            self._lines.discard(line)

    async def _pump(
        self,
        line: _Line,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            data = await reader.read(_READ)
            await line.is_open.wait()
            if writer.is_closing():
                return
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            await self._pace(len(data))
            try:
                writer.write(data)
            except RuntimeError:
                continue  # this direction has been closed
            await writer.drain()

    async def _pace(self, size: int) -> None:
        if self._rate is None:
            return
        now = time.monotonic()
        self._free_at = max(now, self._free_at) + size / self._rate
        await asyncio.sleep(self._free_at - now)
