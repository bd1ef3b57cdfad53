"""The daemon's command line."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import List, Tuple, Type

import pytest

from ngcp_task_agent import __version__
from ngcp_task_agent.daemon import cli
from ngcp_task_agent.errors import CannotReload, NotAllowed
from ngcp_task_agent.management import reload
from ngcp_task_agent.process.users import PATH
from tests.parts import ROOT
from tests.unit.fakes import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "etc/backends/redis.yml", "")
    write(
        tmp_path / "etc/tasks/x.yml",
        "name: x\nbackend: redis\nbackend_options: {control_channel: c}\n"
        "broker: command\nbroker_options: {run: sh}\n",
    )
    return tmp_path / "etc"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"ngcp-task-agent {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [["--nonsense"], ["x"], ["--log-level", "loud"], ["--check", "--reload"]],
)
def test_wrong_command_line(
    argv: List[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert "usage: ngcp-task-agent" in capfd.readouterr().err


def test_check(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check", "--config-dir", str(folder)]) == 0
    said = f"{folder}: no fault; 1 backend, 1 task\n"
    assert capfd.readouterr().out == said
    (folder / "tasks/x.yml").unlink()
    write(folder / "backends/second.yml", "type: redis\n")
    assert cli.main(["--check", "--config-dir", str(folder)]) == 0
    said = f"{folder}: no fault; 2 backends, 0 tasks\n"
    assert capfd.readouterr().out == said


def test_check_with_a_warning(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder / "tasks/x.yml"
    path.write_text(path.read_text().replace("sh", "no-such-program"))
    assert cli.main(["--check", "--config-dir", str(folder)]) == 0
    assert "there is no program 'no-such-program'" in capfd.readouterr().out


def test_check_with_faults(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder / "agent.yml", "a: 1\nb: 2\n")
    assert cli.main(["--check", "--config-dir", str(folder)]) == 78
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder}/agent.yml:1: a: ")
    assert lines[1].startswith(f"{folder}/agent.yml:2: b: ")


def test_check_of_a_new_file(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder / "agent.yml", "faulty: 1\n")
    text = (folder / "tasks/x.yml").read_text()
    new = write(tmp_path / "new.yml", text.replace("x", "new"))
    argv = ["--config-dir", str(folder), "--check"]
    assert cli.main([*argv, str(new)]) == 0
    assert capfd.readouterr().out == f"{new}: no fault\n"
    new.write_text(text.replace("sh", "no-such-program"))
    assert cli.main([*argv, str(new)]) == 78
    said = capfd.readouterr().out.splitlines()
    assert said == [
        f"{new}:1: name: {folder}/tasks/x.yml has a task of this name on this "
        "channel: rename one",
        f"{new}:5: broker_options.run: there is no program 'no-such-program' "
        f"in {PATH} (a warning)",
    ]
    new.write_text("secret")
    assert cli.main([*argv[:-1], f"--check={new}"]) == 78
    assert "secret" not in capfd.readouterr().out
    assert cli.main([*argv, f"{tmp_path}/nowhere.yml"]) == 78
    assert "No such file" in capfd.readouterr().out


def test_check_of_this_folder_as_a_file(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--check", "."]) == 78
    assert capfd.readouterr().out.startswith(".: is a folder; ")


def test_check_of_a_folder_as_a_file(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--check", str(folder)]) == 78
    assert capfd.readouterr().out == (
        f"{folder}: is a folder; to check one: --check --config-dir DIR\n"
    )


def test_check_of_a_file_whose_name_is_not_utf_8(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder / "tasks/\udcff.yml", "")
    assert cli.main(["--check", "--config-dir", str(folder)]) == 78
    said = capfd.readouterr().out
    assert said.startswith(f"{folder}/tasks/\\udcff.yml: is empty")


def test_check_with_nothing_to_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--check", "--config-dir", str(tmp_path)]) == 78
    assert "nothing to run" in capfd.readouterr().out


def test_reload(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    faults: List[str] = []

    async def ask() -> Tuple[List[str], str]:
        return faults, ""

    monkeypatch.setattr(reload, "ask", ask)
    assert cli.main(["--reload"]) == 0
    faults.append("a.yml:1: x")
    assert cli.main(["--reload"]) == 78
    assert "a.yml:1: x\n" in capfd.readouterr().err
    # Each fault is in the journal once: the agent has written it.
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert cli.main(["--reload"]) == 78
    assert capfd.readouterr().err == ""


def test_reload_by_a_signal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def ask() -> Tuple[List[str], str]:
        return [], "there is no bus: sent SIGHUP"

    monkeypatch.setattr(reload, "ask", ask)
    assert cli.main(["--reload"]) == 0
    out, err = capfd.readouterr()
    assert out == "there is no bus: sent SIGHUP\n"
    assert err == ""


@pytest.mark.parametrize(
    ("error", "status"), [(CannotReload, 1), (NotAllowed, 77)]
)
def test_reload_fails(
    error: Type[Exception],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def ask() -> Tuple[List[str], str]:
        raise error("no agent is there")

    monkeypatch.setattr(reload, "ask", ask)
    assert cli.main(["--reload"]) == status
    assert capfd.readouterr().err == "ngcp-task-agent: no agent is there\n"


def serve(run: str) -> subprocess.CompletedProcess[str]:
    """Run the daemon with these lines instead of the agent."""
    script = f"""
import asyncio, threading, time
from ngcp_task_agent.daemon import cli
from ngcp_task_agent.logs import journal

class Agent:
    def __init__(self, *_):
        pass

    async def run(self):
{textwrap.indent(textwrap.dedent(run), " " * 8)}

cli.Agent = Agent
cli.main([])
"""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("status", [0, 1, 78])
def test_a_hanging_thread_does_not_delay_the_exit(status: int) -> None:
    """It may wait for a name service, for example; the log is written."""
    done = serve(
        f"""
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 1000)
        journal.record(journal.STOPPED, "last words")
        return {status}
        """
    )
    assert done.returncode == status
    assert done.stderr.endswith(" last words\n")
    assert done.stderr.count("\n") == 1


def test_no_more_threads() -> None:
    """Commands count against the same limit as the agent's threads."""
    done = serve(
        """
        def full(thread):
            raise RuntimeError("can't start new thread")

        threading.Thread.start = full
        works = [asyncio.to_thread(time.sleep, 0.01) for _ in range(50)]
        await asyncio.gather(*works)
        return 0
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
