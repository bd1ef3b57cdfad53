"""The ``dst`` of a request: which nodes should act.

::

    dst      = target *( "," target )
    target   = pattern [ "|" options ]
    options  = option *( ";" option )
    option   = key "=" value *( "+" value )

A request is for a node when any target matches: its pattern matches one of
the node's names and all its own options hold.  Case and spaces around
parts do not matter, and all work is linear in the length of the text.
"""

from __future__ import annotations

import functools
from typing import Dict, Iterable, NamedTuple, Tuple

from ngcp_task_agent.errors import DestinationError
from ngcp_task_agent.protocol.identity import Identity
from ngcp_task_agent.protocol.pattern import Pattern

_LOCAL = frozenset({"local", "localhost"})
QUOTED = 60  # characters of the faulty part in an error


class Option(NamedTuple):
    """``role=proxy+lb``: holds when any value matches any of the node's."""

    key: str
    values: Tuple[Pattern, ...]

    def holds(self, node: Identity) -> bool:
        has = node.facts.get(self.key, ())
        return any(value.matches_any(has) for value in self.values)


class Target(NamedTuple):
    """``db*|state=active``: a pattern for names, and its options."""

    pattern: Pattern
    options: Tuple[Option, ...]

    def matches(self, node: Identity, src: str, via_own_server: bool) -> bool:
        # As is_local(), whose call would take time for each message.
        if self.pattern.text.lower() in _LOCAL:
            named = via_own_server or node.is_called(src)
        else:
            named = self.pattern.matches_any(node.names)
        return named and all(option.holds(node) for option in self.options)


class Destination(NamedTuple):
    """A parsed ``dst``; see :func:`parse`."""

    targets: Tuple[Target, ...]

    def matches(
        self, node: Identity, src: str, via_own_server: bool = False
    ) -> bool:
        """Whether a request with this destination is for the node.

        :param src: the request's ``src``, for ``local`` and ``localhost``
        :param via_own_server: only clients of this machine can have sent the
            request, so ``local`` means this node whatever ``src`` says
        """
        return any(t.matches(node, src, via_own_server) for t in self.targets)

    @property
    def names(self) -> Tuple[str, ...]:
        """The targets that are just the name of a node, each once.

        Without wildcards and options, and not ``local`` or ``localhost``.
        """
        found: Dict[str, str] = {}
        for pattern, options in self.targets:
            if pattern.is_plain and not options and not is_local(pattern.text):
                found.setdefault(pattern.text.lower(), pattern.text)
        return tuple(found.values())


def is_local(pattern: str) -> bool:
    """Whether a target's pattern means the client's machine."""
    return pattern.lower() in _LOCAL


def parse(dst: str) -> Destination:
    """Parse a ``dst``.

    :raises DestinationError: quoting the faulty part
    """
    return _recent(dst) if len(dst) <= _SHORT else _parse(dst)


def _parse(dst: str) -> Destination:
    targets = [target.strip() for target in dst.split(",")]
    if not all(targets):
        number = targets.index("") + 1
        raise DestinationError(f"dst: target {number}, '', is empty")
    return Destination(tuple(map(_target, dict.fromkeys(targets))))


# Clients use few, and the long ones of a flood would take much memory.
_SHORT = 64  # characters
_recent = functools.lru_cache(maxsize=256)(_parse)


def _target(text: str) -> Target:
    pattern, bar, rest = text.partition("|")
    options = _unique(rest, ";") if bar else ()
    if not pattern.strip():
        raise _fault(text, "has no name before '|'")
    if not all(options):
        raise _fault(text, "has an empty option")
    return Target(Pattern(pattern.strip()), tuple(map(_option, options)))


def _option(text: str) -> Option:
    key, equals, rest = text.partition("=")
    values = _unique(rest, "+")
    if "|" in text:
        raise _fault(text, "has a second '|'")
    if not equals:
        raise _fault(text, "has no '='")
    if not key.strip():
        raise _fault(text, "has no key before '='")
    if not all(values):
        raise _fault(text, "has an empty value")
    return Option(key.strip().lower(), tuple(map(Pattern, values)))


def _unique(text: str, separator: str) -> Iterable[str]:
    """Split a text; drop duplicates, which would only cost time."""
    return dict.fromkeys(part.strip() for part in text.split(separator))


def _fault(part: str, what: str) -> DestinationError:
    if len(part) > QUOTED:
        part = part[:QUOTED] + "..."
    return DestinationError(f"dst: '{part}' {what}")
