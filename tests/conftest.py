"""Rules for every test: coroutines run, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import pytest

# No test waits this long on purpose; it limits a hang.
TEST_TIMEOUT = 120.0


def pytest_configure() -> None:
    """Reset signals ignored by nohup(1) or ``&``: children inherit them.

    Nothing uses the machine's own bus, or its systemd.
    """
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nowhere/bus"
    os.environ.pop("MAINPID", None)
    os.environ.pop("NGCP_TASK_AGENT_SLICE", None)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Optional[bool]:
    """Run a coroutine test; it must end all tasks that it starts."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(_settled(pyfuncitem.obj(**arguments)))
    return True


async def _settled(test: Any) -> None:
    await asyncio.wait_for(test, TEST_TIMEOUT)
    # Cancelled tasks may still be ending, and the loop reaps a process an
    # instant after it was killed.
    for _ in range(100):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left and not child():
            return
        await asyncio.sleep(0.01)
    if left:
        pytest.fail(f"the test leaves tasks: {left}")


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """Check that no child process or zombie and no descriptor is left."""
    before = _descriptors()
    yield
    children = child()
    _reap()
    assert children is None, f"the test leaves a process: {children}"
    deadline = time.monotonic() + 2
    while set(_descriptors()) - set(before):
        # The garbage collector or the kernel may not be done yet.
        if time.monotonic() > deadline:
            left = {
                fd: where
                for fd, where in _descriptors().items()
                if fd not in before
            }
            pytest.fail(f"the test leaves descriptors: {left}")
        time.sleep(0.01)


def child() -> Optional[str]:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return str(list(Path("/proc/self/task").glob("*/children")))
    return str(found)


def _reap() -> None:
    """Clean up, so that one test's leftovers do not fail the next."""
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
            pass


def _descriptors() -> Dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass  # the listing's own
    return found
