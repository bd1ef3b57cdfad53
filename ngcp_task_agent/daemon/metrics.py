"""MetricsFile: the agent's counters in a file, for node_exporter.

A disk can be slow, or hang.  So a thread writes, one at a time, and only the
stop waits for it, briefly.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
import time
from typing import (
    Callable,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
)

from ngcp_task_agent import __version__
from ngcp_task_agent.daemon.runtime import Runtime
from ngcp_task_agent.logs import journal
from ngcp_task_agent.requests.counters import COUNTED

INTERVAL = 15.0  # seconds between writes
LONGEST = 15.0  # seconds for a write; a longer one hangs
AT_THE_STOP = 1.0  # seconds for a write under way, then for the last one

_FIXES = {
    errno.ENOENT: "create its folder",
    errno.ENOTDIR: "create its folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EACCES: "let the agent's user write to its folder",
    errno.EPERM: "let the agent's user write to its folder",
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
}
_NONE = {"received": 0, **dict.fromkeys(COUNTED, 0)}
_FIX = "choose another place, or check the disk"
_NOT_WRITTEN = "metrics cannot be written"


class Snapshot(NamedTuple):
    """What the file says.

    :ivar totals: of all messages, by one of ``counters.COUNTED``, or received
    :ivar tasks: the same by task
    :ivar durations: of ended requests by task: how many in each bucket, and
        the sum in seconds
    :ivar backends: whether each works
    """

    is_up: bool
    version: str
    node: str
    totals: Mapping[str, int]
    tasks: Sequence[tuple[str, Mapping[str, int]]]
    durations: Sequence[tuple[str, Sequence[int], float]]
    running: int
    queued: int
    backends: Sequence[tuple[str, bool]]


def take_snapshot(runtime: Runtime, is_up: bool) -> Snapshot:
    """
    :param is_up: False once everything has stopped
    """
    counters = runtime.counters
    counted = dict(counters.by_task())
    # Built-in tasks are among those that were asked for.
    names = dict.fromkeys((*(task.name for task in runtime.tasks), *counted))
    running = sum(job.is_running for job in runtime.jobs)
    return Snapshot(
        is_up,
        __version__,
        runtime.identity().name,
        counters.totals(),
        [(name, counted.get(name, _NONE)) for name in names],
        list(counters.durations()),
        running,
        len(runtime.jobs) - running,
        [(name, is_up and not why) for name, _, why in runtime.backends],
    )


class MetricsFile:
    """Writes a snapshot every INTERVAL, from move() to stop().

    :param take: takes it; gets whether the agent is up
    """

    def __init__(self, take: Callable[[bool], Snapshot]) -> None:
        self._take = take
        self._path: Optional[str] = None
        self._files: Set[str] = set()  # that were written, and are there
        self._timer: Optional[asyncio.TimerHandle] = None
        # While a thread writes:
        self._writing: Optional[asyncio.Future[None]] = None
        self._target: Optional[str] = None  # None: only removes
        self._began = 0.0
        self._is_outdated = False  # what it writes
        self._trouble = ""

    def move(self, path: Optional[str]) -> None:
        """Write to this path from now on, or nowhere; remove the old file."""
        if path is None and self._path is None:
            return
        self._path = path
        self._is_outdated = True
        self._next()

    async def stop(self) -> None:
        """Write a last time: the agent is down.  Bounded in time."""
        if self._timer:
            self._timer.cancel()
        self._is_outdated = False
        if self._writing:
            await asyncio.wait({self._writing}, timeout=AT_THE_STOP)
        if self._path and not self._writing:
            self._begin(is_up=False)
            if self._writing:
                await asyncio.wait({self._writing}, timeout=AT_THE_STOP)

    def _next(self) -> None:
        """Write, and remove old files, now and every INTERVAL."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not self._path and not self._files:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL, self._next)
        if not self._writing:
            self._begin(is_up=True)
        elif time.monotonic() - self._began >= LONGEST:
            late = f"takes longer than {LONGEST:g} s; check the disk"
            if self._target:
                what = f"{_NOT_WRITTEN} to {self._target}: writing {late}"
                self._report(what)
            else:
                self._report(f"removing the old metrics_file {late}")

    def _begin(self, is_up: bool) -> None:
        loop = asyncio.get_running_loop()
        path, files = self._path, self._files
        self._target = path
        snapshot = self._take(is_up) if path else None
        self._is_outdated = False
        self._began = time.monotonic()
        self._writing = loop.create_future()

        def work() -> None:
            trouble = ""
            # First: a reader of both would find everything twice.
            for old in files - {path}:
                try:
                    _remove(old)
                    files.discard(old)
                except OSError as error:
                    what = _explain(error, "remove it yourself")
                    trouble = (
                        f"the old metrics_file {old} cannot be removed: {what}"
                    )
            try:
                if path and snapshot:
                    _write(path, snapshot)
                    files.add(path)
            except Exception as error:
                trouble = f"{_NOT_WRITTEN} to {path}: {_explain(error)}"
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._done, trouble)

        # One that hangs must not keep the process from its end.
        thread = threading.Thread(target=work, name="metrics", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._done(f"{_NOT_WRITTEN}: {error}; raise the limit of threads")

    def _done(self, trouble: str) -> None:
        assert self._writing, "one at a time"
        self._writing.set_result(None)
        self._writing = None
        if trouble:
            self._report(trouble)
        else:
            if self._target and self._trouble.startswith(_NOT_WRITTEN):
                text = f"metrics are written to {self._target} again"
                journal.record(journal.METRICS_WRITTEN, text)
            self._trouble = ""
        if self._is_outdated:
            self._begin(is_up=True)

    def _report(self, trouble: str) -> None:
        """Log trouble once, until it is over or changes."""
        if trouble != self._trouble:
            self._trouble = trouble
            journal.record(journal.METRICS_NOT_WRITTEN, trouble)


def _explain(error: Exception, fix: str = _FIX) -> str:
    """Say what is wrong, and what to do.

    :param fix: for an error that suggests nothing else
    """
    if isinstance(error, ImportError):
        return f"{error}; install python3-prometheus-client"
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return f"{what}; {_FIXES.get(error.errno or 0, fix)}"
    return f"{error!r}; {fix}"


def _write(path: str, snapshot: Snapshot) -> None:
    """Replace a file; its readers see the old one or the new one."""
    # These take memory, and time to load.
    import tempfile

    from ngcp_task_agent.daemon.prometheus import text

    _check_kind(path)
    folder, name = os.path.split(path)
    fd, part = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with open(fd, "wb") as file:
            file.write(text(snapshot))
            os.fchmod(fd, 0o644)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _check_kind(path: str) -> None:
    """
    :raises OSError: for what must not be replaced, such as ``/dev/null``
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise OSError(errno.EEXIST, "It is there, and is no file")


def _remove(path: str) -> None:
    """Remove a file that is no longer written: its values would stay.

    What has taken its place stays.
    """
    with contextlib.suppress(
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        FileExistsError,
    ):
        _check_kind(path)
        os.unlink(path)
