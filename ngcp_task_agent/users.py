"""The users that commands can run as, and what they find when they do."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Dict

from ngcp_task_agent.errors import CannotStart

# Where programs are looked up that are named without a path, and the PATH of
# every command: the agent's own could be anything.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
    uid = os.geteuid()
    try:
        return _user(pwd.getpwuid(uid))
    except KeyError:
        return User(str(uid), uid, os.getegid(), "/", "/bin/sh")


def find_user(name: str) -> User:
    """The user of that name, now.

    Asks the name service: call it where blocking is allowed.

    :raises CannotStart: when there is no such user
    """
    try:
        return _user(pwd.getpwnam(name))
    except (KeyError, ValueError):
        raise CannotStart(f"there is no user '{name}'") from None


def _user(entry: pwd.struct_passwd) -> User:
    return User(
        entry.pw_name,
        entry.pw_uid,
        entry.pw_gid,
        entry.pw_dir or "/",
        entry.pw_shell or "/bin/sh",
    )
