"""The users that commands can run as, and their environment."""

from __future__ import annotations

import asyncio
import functools
import os
import pwd
import threading
import time
from concurrent import futures
from dataclasses import dataclass
from typing import Dict, Tuple

from ngcp_task_agent.errors import CannotStart

# Where programs without a path are looked up, and the PATH of every command:
# the agent's own could be anything.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Seconds that a name service, perhaps a remote one, may take: for a request;
# and while a configuration is read, for all names together.
ASK_WITHIN = 10.0
FIND_WITHIN = 3.0
_LEAST_WITHIN = 0.1  # for each name, even if others used up the time


@dataclass(frozen=True)
class User:
    """A user that commands can run as."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str

    @property
    def is_own(self) -> bool:
        """Whether the agent itself runs as this user."""
        return self.uid == os.geteuid()

    def environment(self) -> Dict[str, str]:
        """Return the environment of all commands of this user."""
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell,
        }


def own_user() -> User:
    """Return the user that the agent runs as, even one without a name."""
    return _user_of(os.geteuid())


@functools.lru_cache(maxsize=1)
def _user_of(uid: int) -> User:
    try:
        return _user(pwd.getpwuid(uid))
    except KeyError:
        return User(str(uid), uid, os.getegid(), "/", "/bin/sh")


def find_user(name: str) -> User:
    """Look up a user; blocks.

    Several calls share FIND_WITHIN while the name service does not answer.

    :raises CannotStart: when there is no such user, or no answer
    """
    answer = _ask(name)
    with _lock:
        oldest = min((began for _, began in _lookups.values()), default=0.0)
    within = oldest + FIND_WITHIN - time.monotonic()
    try:
        return answer.result(max(within, _LEAST_WITHIN))
    except futures.TimeoutError:
        raise _no_answer(name, FIND_WITHIN) from None


async def ask_user(name: str) -> User:
    """Look up a user.

    :raises CannotStart: when there is no such user, or no answer
    """
    try:
        return await asyncio.wait_for(
            asyncio.wrap_future(_ask(name)), ASK_WITHIN
        )
    except asyncio.TimeoutError:
        raise _no_answer(name, ASK_WITHIN) from None


def _no_answer(name: str, within: float) -> CannotStart:
    return CannotStart(
        f"the name service did not answer within {within:g} s for user "
        f"'{name}'"
    )


# Running lookups and their start times, by name.  A name service can take very
# long, and a lookup cannot be stopped.  So each has its own thread, which
# delays neither other lookups nor the agent's exit.
_lookups: Dict[str, Tuple[futures.Future[User], float]] = {}
_lock = threading.Lock()


def _ask(name: str) -> futures.Future[User]:
    """Start a lookup, or join a running one."""
    with _lock:
        if name in _lookups:
            return _lookups[name][0]
        answer: futures.Future[User] = futures.Future()
        # A waiter that gives up must not cancel it for the others.
        answer.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=_look_up, args=(name, answer), name="user", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise _cannot_look_up(name, error) from None
        _lookups[name] = answer, time.monotonic()
        return answer


def _look_up(name: str, answer: futures.Future[User]) -> None:
    user, error = None, None
    try:
        user = _user(pwd.getpwnam(name))
    except (KeyError, ValueError):
        error = CannotStart(f"there is no user '{name}'")
    except Exception as failed:
        error = _cannot_look_up(name, failed)
    with _lock:
        del _lookups[name]
    if user:
        answer.set_result(user)
    else:
        answer.set_exception(error)


def _cannot_look_up(name: str, error: Exception) -> CannotStart:
    return CannotStart(f"user '{name}' cannot be looked up: {error}")


def _user(entry: pwd.struct_passwd) -> User:
    return User(
        entry.pw_name,
        entry.pw_uid,
        entry.pw_gid,
        entry.pw_dir or "/",
        entry.pw_shell or "/bin/sh",
    )
