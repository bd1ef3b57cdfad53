"""Identity: what requests can ask about a node."""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, Mapping, NamedTuple, Tuple


class Identity(NamedTuple):
    """Who the node is at one moment.

    :ivar name: what it calls itself in responses
    :ivar names: all names that requests can use for it, in lower case
    :ivar facts: what options can ask for: state, status, role, and labels
    """

    name: str
    names: FrozenSet[str]
    facts: Mapping[str, Tuple[str, ...]]

    def is_called(self, name: str) -> bool:
        """Whether this is one of its names, ignoring case."""
        return name.strip().lower() in self.names

    def described(self) -> Dict[str, Any]:
        """Return ``name``, ``aliases``, ``roles``, ``state``, ``status`` and
        ``labels``, for those who ask about the node.
        """
        facts = dict(self.facts)
        state, status, roles = (
            facts.pop(name, ()) for name in ("state", "status", "role")
        )
        return {
            "name": self.name,
            "aliases": sorted(self.names - {self.name.lower()}),
            "roles": sorted(roles),
            "state": "".join(state),
            "status": "".join(status),
            "labels": {name: "".join(value) for name, value in facts.items()},
        }

    def __str__(self) -> str:
        others = sorted(self.names - {self.name.lower()})
        parts = [f"this is {self.name}"]
        if others:
            parts.append(f"also called {', '.join(others)}")
        parts += [
            f"{key} {', '.join(values) or 'none'}"
            for key, values in self.facts.items()
        ]
        return "; ".join(parts)
