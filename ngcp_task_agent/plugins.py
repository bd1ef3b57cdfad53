"""Backends and brokers by name: our own, and those of other packages."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Dict, Mapping, Type, TypeVar

from ngcp_task_agent import backends, brokers, journal
from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.brokers.base import Broker

Plugin = TypeVar("Plugin", Backend, Broker)


@dataclass(frozen=True)
class Plugins:
    """The classes that files can name."""

    backends: Mapping[str, Type[Backend]]
    brokers: Mapping[str, Type[Broker]]


def find() -> Plugins:
    """What is installed now.  Blocks: entry points are read from files."""
    return Plugins(
        _found("ngcp_task_agent.backends", backends.BUILT_IN),
        _found("ngcp_task_agent.brokers", brokers.BUILT_IN),
    )


def _found(
    group: str, built_in: Dict[str, Type[Plugin]]
) -> Dict[str, Type[Plugin]]:
    """The table, and what entry points add; they cannot replace a row."""
    table: Dict[str, Type[Plugin]] = {}
    points = importlib.metadata.entry_points()
    # Python 3.9 has a mapping of groups; select() came with 3.10.
    for point in (
        points.select(group=group)
        if hasattr(points, "select")
        else points.get(group, ())
    ):
        try:
            table[point.name] = point.load()
        except Exception as error:
            # Another package's mistake is not to keep ours from running.
            journal.record(
                journal.CONFIG_WARNING,
                f"{group}: {point.name} cannot be loaded: {error!r}",
            )
    return {**table, **built_in}
