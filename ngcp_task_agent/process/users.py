"""The users that commands can run as, and what they find when they do."""

from __future__ import annotations

import asyncio
import functools
import os
import pwd
import threading
import time
from concurrent import futures
from dataclasses import dataclass
from typing import Dict

from ngcp_task_agent.errors import CannotStart

# Where programs are looked up that are named without a path, and the PATH of
# every command: the agent's own could be anything.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Seconds for a name service that may be remote: for a request; and while a
# configuration is read, where whoever reloads waits, first and next.
ASK_WITHIN = 10.0
FIND_WITHIN = 3.0
_FIND_NEXT_WITHIN = 0.1


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
        """What every command of this user finds in its environment."""
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell,
        }


def own_user() -> User:
    """The user that the agent itself runs as, known by name or not."""
    return _user_of(os.geteuid())


@functools.lru_cache(maxsize=1)
def _user_of(uid: int) -> User:
    try:
        return _user(pwd.getpwuid(uid))
    except KeyError:
        return User(str(uid), uid, os.getegid(), "/", "/bin/sh")


def find_user(name: str) -> User:
    """The user of that name, now; blocks.

    Where many are asked for one after the other and the name service
    answers none of them, it is waited for once.

    :raises CannotStart: when there is no such user, or no answer
    """
    answer = _ask(name)
    with _lock:
        oldest = min(_since.values(), default=0.0)
    within = oldest + FIND_WITHIN - time.monotonic()
    try:
        return answer.result(max(within, _FIND_NEXT_WITHIN))
    except futures.TimeoutError:
        raise _no_answer(name, FIND_WITHIN) from None


async def ask_user(name: str) -> User:
    """The user of that name, now.

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
        f"the name service did not tell within {within:g} s who '{name}' is"
    )


# The names that are being asked for, and since when.  A name service can
# take very long, and what has asked it cannot be stopped: a thread for each
# name, which holds up nobody else, nor the agent's end.
_answers: Dict[str, futures.Future[User]] = {}
_since: Dict[str, float] = {}
_lock = threading.Lock()


def _ask(name: str) -> futures.Future[User]:
    """The answer to come; whoever asks meanwhile gets the same."""
    with _lock:
        if name in _answers:
            return _answers[name]
        answer: futures.Future[User] = futures.Future()
        # Whoever gives up does not cancel it for the others.
        answer.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=_look_up, args=(name, answer), name="user", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise _cannot_ask(name, error) from None
        _answers[name], _since[name] = answer, time.monotonic()
        return answer


def _look_up(name: str, answer: futures.Future[User]) -> None:
    user, error = None, None
    try:
        user = _user(pwd.getpwnam(name))
    except (KeyError, ValueError):
        error = CannotStart(f"there is no user '{name}'")
    except Exception as failed:
        error = _cannot_ask(name, failed)
    with _lock:
        del _answers[name], _since[name]
    if user:
        answer.set_result(user)
    else:
        answer.set_exception(error)


def _cannot_ask(name: str, error: Exception) -> CannotStart:
    return CannotStart(f"who '{name}' is cannot be asked: {error}")


def _user(entry: pwd.struct_passwd) -> User:
    return User(
        entry.pw_name,
        entry.pw_uid,
        entry.pw_gid,
        entry.pw_dir or "/",
        entry.pw_shell or "/bin/sh",
    )
