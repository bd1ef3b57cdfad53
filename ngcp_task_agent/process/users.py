"""The users that commands can run as, and their environment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pwd
import threading
import time
from concurrent import futures
from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Sequence, Tuple, Union

from ngcp_task_agent.errors import CannotStart

# Where programs without a path are looked up, and the PATH of every command:
# the agent's own could be anything.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Seconds that a name service, perhaps a remote one, may take: for a request;
# and while a configuration is read, for all names together.
ASK_WITHIN = 10.0
FIND_WITHIN = 3.0
NAME_WITHIN = 2.0  # the same, for the name of a uid
_LEAST_WITHIN = 0.1  # for each name, even if others used up the time

KEPT_FOR = 1.0  # seconds for which requests take an answer for granted


@dataclass(frozen=True)
class User:
    """A user that commands can run as.

    :ivar groups: those of the name: two names of one uid may differ in them
    """

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    groups: Tuple[int, ...] = ()

    @functools.cached_property
    def is_own(self) -> bool:
        """Whether the agent itself runs as this user, with these groups."""
        own = (os.geteuid(), os.getegid(), {os.getegid(), *os.getgroups()})
        return own == (self.uid, self.gid, {self.gid, *self.groups})

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
    """Return the user that the agent runs as, even one without a name.

    Its groups are the agent's, whichever its name has.
    """
    return _user_of(os.geteuid())


@functools.lru_cache(maxsize=1)
def _user_of(uid: int) -> User:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        entry = pwd.struct_passwd((str(uid), "", uid, 0, "", "", ""))
    return _user(entry, os.getegid(), os.getgroups())


# By name, what this thread has found within remembering().
_found = threading.local()


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within, and in this thread, find_user() looks up each name once."""
    _found.users = {}
    try:
        yield
    finally:
        _found.users = None


def find_user(name: str) -> User:
    """Look up a user; blocks.

    Several calls share FIND_WITHIN while the name service does not answer.

    :raises CannotStart: when there is no such user, or no answer
    """
    users: Optional[Dict[str, Union[User, CannotStart]]]
    users = getattr(_found, "users", None)
    if users is None:
        return _find_user(name)
    if name not in users:
        try:
            users[name] = _find_user(name)
        except CannotStart as error:
            users[name] = error
    found: Union[User, CannotStart] = users[name]
    if isinstance(found, CannotStart):
        raise found
    return found


def _find_user(name: str) -> User:
    answer = _ask(name)
    with _lock:
        oldest = min((began for _, began in _lookups.values()), default=0.0)
    within = oldest + FIND_WITHIN - time.monotonic()
    try:
        return answer.result(max(within, _LEAST_WITHIN))
    except futures.TimeoutError:
        raise _no_answer(name, FIND_WITHIN) from None


async def ask_user(name: str) -> User:
    """Look up a user, unless the last lookup began within KEPT_FOR.

    :raises CannotStart: when there is no such user, or no answer
    """
    known = _known.get(name)
    if known and time.monotonic() < known[1] + KEPT_FOR:
        return known[0]
    try:
        return await asyncio.wait_for(
            asyncio.wrap_future(_ask(name)), ASK_WITHIN
        )
    except asyncio.TimeoutError:
        raise _no_answer(name, ASK_WITHIN) from None


async def ask_name(uid: int) -> str:
    """Return the name of a user; its number if it has none, or no answer."""
    answer: futures.Future[str] = futures.Future()
    answer.set_running_or_notify_cancel()

    def look_up() -> None:
        try:
            answer.set_result(pwd.getpwuid(uid).pw_name)
        except Exception:
            answer.set_result(str(uid))

    try:
        # As for a lookup by name, a thread of its own.
        threading.Thread(target=look_up, name="user", daemon=True).start()
        return await asyncio.wait_for(asyncio.wrap_future(answer), NAME_WITHIN)
    except (RuntimeError, asyncio.TimeoutError):
        return str(uid)


def _no_answer(name: str, within: float) -> CannotStart:
    return CannotStart(
        f"the name service did not answer within {within:g} s for user "
        f"'{name}'"
    )


# The last answers, and when their lookups began, by name.
_known: Dict[str, Tuple[User, float]] = {}

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
        began = time.monotonic()
        try:
            thread.start()
        except RuntimeError as error:
            raise _cannot_look_up(name, error) from None
        _lookups[name] = answer, began
        return answer


def _look_up(name: str, answer: futures.Future[User]) -> None:
    user, error = None, None
    try:
        entry = pwd.getpwnam(name)
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        user = _user(entry, entry.pw_gid, groups)
    except (KeyError, ValueError):
        error = CannotStart(f"there is no user '{name}'")
    except Exception as failed:
        error = _cannot_look_up(name, failed)
    with _lock:
        _, began = _lookups.pop(name)
        if user:
            _known[name] = user, began
        else:
            _known.pop(name, None)
    if user:
        answer.set_result(user)
    else:
        answer.set_exception(error)


def _cannot_look_up(name: str, error: Exception) -> CannotStart:
    return CannotStart(f"user '{name}' cannot be looked up: {error}")


def _user(entry: pwd.struct_passwd, gid: int, groups: Sequence[int]) -> User:
    return User(
        entry.pw_name,
        entry.pw_uid,
        gid,
        entry.pw_dir or "/",
        entry.pw_shell or "/bin/sh",
        tuple(groups),
    )
