"""The control socket: asks the running agent to reload, and waits."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import List, Sequence

import pytest

from ngcp_task_agent.daemon import control
from ngcp_task_agent.daemon.control import Control, ask_reload
from ngcp_task_agent.errors import ControlError


class Agent:
    """Reloads, with these faults."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.reloads = 0

    async def reload(self) -> Sequence[object]:
        self.reloads += 1
        await asyncio.sleep(0.01)
        return self.faults


@pytest.mark.parametrize("faults", [[], ["a.yml:1: x", "b.yml: y"]])
async def test_reload(tmp_path: Path, faults: List[str]) -> None:
    agent = Agent(*faults)
    served = Control(tmp_path / "control", agent.reload)
    await served.start()
    try:
        assert await ask_reload(tmp_path / "control") == faults
        assert await ask_reload(tmp_path / "control") == faults
    finally:
        await served.stop()
    assert agent.reloads == 2
    assert not (tmp_path / "control").exists()


async def test_a_fault_of_a_file_whose_name_is_not_utf_8(
    tmp_path: Path,
) -> None:
    served = Control(tmp_path / "control", Agent("\udcff.yml: x").reload)
    await served.start()
    assert await ask_reload(tmp_path / "control") == ["\\udcff.yml: x"]
    await served.stop()


async def test_only_its_user_can_use_the_socket(tmp_path: Path) -> None:
    served = Control(tmp_path / "control", Agent().reload)
    umask = os.umask(0)
    os.umask(umask)
    await served.start()
    mode = os.stat(tmp_path / "control").st_mode
    await served.stop()
    assert stat.S_IMODE(mode) == 0o600
    assert os.umask(umask) == umask


async def test_replaces_the_socket_of_a_killed_agent(tmp_path: Path) -> None:
    (tmp_path / "control").write_text("")
    served = Control(tmp_path / "control", Agent().reload)
    await served.start()
    assert await ask_reload(tmp_path / "control") == []
    await served.stop()


async def test_no_agent(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no agent is listening"):
        await ask_reload(tmp_path / "control")


async def test_agent_that_disappears(tmp_path: Path) -> None:
    async def serve(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readline()
        writer.write(b"half an answer\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "control")
    with pytest.raises(ControlError, match="went away"):
        await ask_reload(tmp_path / "control")
    server.close()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("request_", [b"stop\n", b"", b"x" * 100_000])
async def test_anything_else_does_nothing(
    tmp_path: Path, request_: bytes
) -> None:
    agent = Agent()
    served = Control(tmp_path / "control", agent.reload)
    await served.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "control")
    try:
        writer.write(request_)
        writer.write_eof()
        assert await reader.read() == b""
    except ConnectionError:
        pass  # closed before it had read everything
    writer.close()
    await served.stop()
    assert agent.reloads == 0
    await asyncio.sleep(0.05)


def test_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert str(control.path()) == "/run/ngcp-task-agent/control"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/another")
    assert str(control.path()) == "/run/another/control"
