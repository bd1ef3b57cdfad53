"""The tasks: how agents are configured, and what each must answer."""

from __future__ import annotations

import functools
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Optional, Sequence, Tuple

from tests.parts import CHANNEL

NODES = ("chaos1", "chaos2", "chaos3")
ROLES = {"chaos1": ["lb"], "chaos2": ["proxy"], "chaos3": ["lb", "proxy"]}

_LINE = "{uuid} äöü\n"
# Bytes of text in JSON, where a non-ASCII letter takes six.
_LINE_SIZE = 36 + 1 + 3 * 6 + 2
_KIB = 1 << 10

# What follows the line that records the run.
_SCRIPTS = {
    "true": "",
    "sleep": 'sleep "$1"',
    "fail": 'echo "$NGCP_TASK_UUID äöü"; exit 3',
    "blob": 'yes "$NGCP_TASK_UUID äöü" | head -n "$1"',
    "busy": "sleep 0.3",
    "picky": "",
}
_KEYS: Dict[str, Dict[str, Any]] = {
    "busy": {"max_running": 1, "max_queued": 1},
}
_EXTRA_ARGS: Dict[str, Any] = {
    "sleep": True,
    "blob": True,
    "picky": ["[a-z]+"],
}


@dataclass(frozen=True)
class Request:
    """A request, and what is expected of a node that takes it.

    :ivar nodes: the nodes that it is for
    :ivar ending: ``done`` or ``error``; None if it must be rejected
    :ivar lines: of output
    """

    uuid: str
    task: str
    nodes: FrozenSet[str]
    ending: Optional[str] = "done"
    lines: int = 0

    def data(self) -> Tuple[int, int]:
        """Return the length of the output, and its checksum in UTF-8."""
        return _data(self.uuid, self.lines)


@functools.cache
def _data(uuid: str, lines: int) -> Tuple[int, int]:
    text = _LINE.format(uuid=uuid) * lines
    return len(text), zlib.crc32(text.encode())


def definitions(runs: Path) -> List[Dict[str, Any]]:
    """Return the tasks' files; each run adds the request's uuid to a file."""
    note = f'echo "$NGCP_TASK_UUID" >> {runs}\n'
    return [
        {
            "name": name,
            "backend": "redis",
            "backend_options": {"control_channel": CHANNEL},
            "broker": "command",
            "broker_options": {
                "run": "sh",
                "args": ["-c", note + script, name],
                "extra_args": _EXTRA_ARGS.get(name, False),
            },
            "max_queued": 1000,
            **_KEYS.get(name, {}),
        }
        for name, script in _SCRIPTS.items()
    ]


def lines_of(size: int) -> int:
    """Return lines of a ``blob`` whose JSON has about this many bytes."""
    return max(1, size // _LINE_SIZE)


class Asking:
    """Makes random requests.

    :param src: the client
    :param channel: where it wants the answers
    """

    def __init__(self, random_: random.Random, src: str, channel: str) -> None:
        self._random = random_
        self._src = src
        self._channel = channel

    def next(self) -> Tuple[Request, Dict[str, Any]]:
        """Return a random request, and its message."""
        kind = self._random.choices(list(_MIX), list(_MIX.values()))[0]
        task, lines, words = kind, 0, []
        ending: Optional[str] = "done"
        nodes, dst = self._destination()
        if kind == "sleep":
            words = [f"{self._random.choice(_SLEEPS):g}"]
        elif kind == "fail":
            ending, lines = "error", 1
        elif kind == "refused":
            task, ending, words = "picky", None, ["7"]
        elif kind == "unknown":
            ending = None
        elif kind in _SIZES:
            task = "blob"
            lines = lines_of(self._random.randint(*_SIZES[kind]))
            words = [str(lines)]
            if kind == "huge":
                nodes, dst = self._one()
        return self.make(task, nodes, dst, ending, lines, words)

    def make(
        self,
        task: str,
        nodes: FrozenSet[str],
        dst: str,
        ending: Optional[str] = "done",
        lines: int = 0,
        words: Sequence[str] = (),
    ) -> Tuple[Request, Dict[str, Any]]:
        """Return one request, and its message."""
        number = self._random.getrandbits(128)
        text = f"{number:032x}"
        uuid = "-".join(
            (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
        )
        message = {
            "uuid": uuid,
            "task": task,
            "src": self._src,
            "dst": dst,
            "options": {"feedback_channel": self._channel},
            "data": {"extra_args": list(words)} if words else None,
        }
        return Request(uuid, task, nodes, ending, lines), message

    def _one(self) -> Tuple[FrozenSet[str], str]:
        node = self._random.choice(NODES)
        return frozenset((node,)), node

    def _destination(self) -> Tuple[FrozenSet[str], str]:
        which = self._random.random()
        if which < 0.65:
            return self._one()
        if which < 0.97:
            nodes, dst = self._random.choice(_SOME)
            return frozenset(nodes), dst
        return frozenset(), "web*"


_SOME: List[Tuple[Tuple[str, ...], str]] = [
    (("chaos1", "chaos3"), "chaos[13]"),
    (("chaos1", "chaos2"), "CHAOS1, chaos2|role=proxy+lb"),
    (("chaos1", "chaos3"), "*|role=lb"),
    (("chaos2", "chaos3"), "web*, chaos[23]|role=pro*"),
    (NODES, "*"),
]
_MIX = {
    "true": 700,
    "sleep": 60,
    "fail": 60,
    "busy": 30,
    "refused": 20,
    "unknown": 20,
    "small": 80,
    "large": 20,
    "huge": 4,
}
_SLEEPS = (0, 0.05, 0.2, 0.5, 1, 2)
_SIZES = {
    "small": (1 * _KIB, 64 * _KIB),
    "large": (200 * _KIB, 400 * _KIB),
    "huge": (1024 * _KIB, 8000 * _KIB),
}
