"""The control socket: asks the running agent to reload, and waits.

``systemctl reload`` should return once the new configuration is in force, and
report its faults.  A signal can do neither, so the unit's ExecReload is
``ngcp-task-agent --reload``, which asks over this socket.

Each connection carries one exchange: the client sends ``reload`` and a line
feed; the agent answers with one line for every fault, then ``ok`` or
``faulty``, and closes the connection.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Awaitable, Callable, List, Sequence

from ngcp_task_agent.errors import ControlError

DEFAULT_PATH = Path("/run/ngcp-task-agent/control")
_REQUEST = b"reload\n"
REQUEST_TIMEOUT = 5.0  # seconds for the request to arrive
RELOAD_TIMEOUT = 60.0  # seconds; backends have to connect

Reload = Callable[[], Awaitable[Sequence[object]]]


def path() -> Path:
    """Return the socket's path, in the folder that systemd creates for it."""
    folder = os.environ.get("RUNTIME_DIRECTORY")
    return Path(folder) / DEFAULT_PATH.name if folder else DEFAULT_PATH


class Control:
    """Serves the socket, for root and the agent's own user.

    :param reload: reloads, and returns the faults
    """

    def __init__(self, socket: Path, reload: Reload) -> None:
        self._socket = socket
        self._reload = reload
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)  # left by a killed agent
        umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, str(self._socket)
            )
        finally:
            os.umask(umask)

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = await asyncio.wait_for(
                reader.readline(), REQUEST_TIMEOUT
            )
            if request == _REQUEST:
                faults = await self._reload()
                lines = [*map(str, faults), "faulty" if faults else "ok"]
                text = "".join(f"{line}\n" for line in lines)
                # File names need not be UTF-8.
                writer.write(text.encode(errors="backslashreplace"))
                await asyncio.wait_for(writer.drain(), REQUEST_TIMEOUT)
        except (OSError, ValueError, asyncio.TimeoutError, ControlError):
            pass  # the client has gone, or the agent is stopping
        finally:
            writer.close()


async def ask_reload(socket: Path) -> List[str]:
    """Make the running agent reload; return the faults, a line each.

    :raises ControlError: when there is no agent, or it does not answer
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError as error:
        raise ControlError(
            f"no agent is listening at {socket}: {error.strerror}; an agent "
            "started by hand reloads on SIGHUP"
        ) from None
    try:
        writer.write(_REQUEST)
        answer = await asyncio.wait_for(reader.read(), RELOAD_TIMEOUT)
    except asyncio.TimeoutError:
        raise ControlError(
            f"the agent did not reload within {RELOAD_TIMEOUT:.0f} s"
        ) from None
    except OSError as error:
        raise ControlError(f"the agent went away: {error.strerror}") from None
    finally:
        writer.close()
    lines = answer.decode(errors="replace").splitlines()
    if not lines or lines[-1] not in ("ok", "faulty"):
        raise ControlError("the agent went away before it had reloaded")
    return lines[:-1]
