"""How to address single nodes of those that a ``dst`` matches."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Tuple

from ngcp_task_agent.protocol.destination import is_local

# Brackets make these stand for themselves.
_SPECIAL = re.compile(r"[*?[]|^\s|\s\Z")
# Nothing does that for these.
_SEPARATOR = re.compile("[,|]")


class Group(NamedTuple):
    """The targets of a ``dst`` that have the same options.

    :ivar is_local: they are ``local`` or ``localhost``
    :ivar options: as in ``state=active;role=proxy``; can be empty
    """

    is_local: bool
    options: str
    targets: Tuple[str, ...]

    @property
    def dst(self) -> str:
        return ",".join(self.targets)


def groups_of(dst: str) -> List[Group]:
    """Divide a valid ``dst``."""
    groups: Dict[Tuple[bool, str], List[str]] = {}
    for target in map(str.strip, dst.split(",")):
        pattern, _, options = target.partition("|")
        key = is_local(pattern.strip()), options.strip()
        groups.setdefault(key, []).append(target)
    return [Group(*key, tuple(targets)) for key, targets in groups.items()]


def target_of(name: str, options: str) -> str:
    """Return the target for the node of this name, if the options hold.

    A ``,`` or ``|`` in the name is replaced by a ``?``.
    """
    if is_local(name):
        pattern = f"[{name[0]}]{name[1:]}"
    else:
        pattern = _SEPARATOR.sub("?", _SPECIAL.sub(r"[\g<0>]", name))
    return f"{pattern}|{options}" if options else pattern
