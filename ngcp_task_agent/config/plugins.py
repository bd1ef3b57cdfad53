"""Backends and brokers by name: our own, and those of other packages."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from typing import Any, Dict, Mapping, NamedTuple, Type, TypeVar

from ngcp_task_agent import backends, brokers
from ngcp_task_agent.backends.base import Backend
from ngcp_task_agent.brokers.base import Broker
from ngcp_task_agent.logs import journal

Plugin = TypeVar("Plugin", Backend, Broker)


class Plugins(NamedTuple):
    """The classes that files can name."""

    backends: Mapping[str, Type[Backend]]
    brokers: Mapping[str, Type[Broker]]


def installed() -> Plugins:
    """Find all plugins.  Blocks: reads their entry points from files."""
    points = _entry_points() if _are_others() else {}
    return Plugins(
        _found(points, "ngcp_task_agent.backends", Backend, backends.BUILT_IN),
        _found(points, "ngcp_task_agent.brokers", Broker, brokers.BUILT_IN),
    )


def _are_others() -> bool:
    """Whether a package on the path may have entry points for us.

    importlib.metadata takes long to load, and to parse those of all packages.
    """
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except FileNotFoundError:
            continue
        except OSError:
            return True  # an archive, which may contain some
        for name in ("EGG-INFO", *names):
            if name[-5:].lower() != "-info":
                continue
            path = os.path.join(folder, name, "entry_points.txt")
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if b"ngcp_task_agent." in file.read():
                    return True
    return False


def _entry_points() -> Any:
    import importlib.metadata

    return importlib.metadata.entry_points()


def _found(
    points: Any,
    group: str,
    interface: Any,
    built_in: Dict[str, Type[Plugin]],
) -> Dict[str, Type[Plugin]]:
    """Add entry points to the built-in table; they cannot replace a row."""
    table: Dict[str, Type[Plugin]] = {}
    # Python 3.9 has a mapping of groups; select() came with 3.10.
    select = getattr(points, "select", None)
    for point in select(group=group) if select else points.get(group, ()):
        # Another package's mistake must not keep ours from running.
        try:
            plugin = point.load()
            _raise_if_unfit(plugin, interface)
        except Exception as error:
            what = f"{group}: {point.name} cannot be used: {error!r}"
            journal.record(journal.CONFIG_WARNING, what)
        else:
            table[point.name] = plugin
    return {**table, **built_in}


def _raise_if_unfit(plugin: Any, interface: Any) -> None:
    """
    :raises TypeError: for an object that cannot be used as a plugin
    :raises jsonschema.SchemaError: for an invalid schema of options
    """
    if not (inspect.isclass(plugin) and issubclass(plugin, interface)):
        raise TypeError(f"it is not a subclass of {interface.__qualname__}")
    missing: Any = getattr(plugin, "__abstractmethods__", ())
    if missing:
        raise TypeError(f"it does not implement {', '.join(sorted(missing))}")
    import jsonschema  # takes long to load

    for name in ("options_schema", "task_options_schema"):
        if name in interface.__annotations__:
            schema = getattr(plugin, name)
            jsonschema.Draft202012Validator.check_schema(schema)
