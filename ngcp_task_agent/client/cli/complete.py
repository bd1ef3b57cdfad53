"""What Tab proposes after each option.

Names come from the agent's configuration, as far as this user may read it,
and from what the last --nodes, --tasks and --jobs have shown.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Callable, Dict, Iterable, List

from ngcp_task_agent.client import discovery
from ngcp_task_agent.client.cli import seen

_LOCAL = ("localhost", "*")
# An agent always knows these of its node.
_OPTIONS = ("state=active", "status=online", "role=")


def attach(parser: argparse.ArgumentParser) -> None:
    """Tell argcomplete how to complete each option's value."""
    action: Any
    for action in parser._actions:
        if action.choices is None:
            # By default argcomplete proposes files.
            action.completer = _COMPLETERS.get(action.dest, _nothing)


def _nothing(**_: Any) -> List[str]:
    return []


def task_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    names = {
        task.name
        for task in (config.tasks if config else ())
        if parsed_args.backend in (None, task.backend)
        and parsed_args.channel in (None, task.channel)
    }
    return sorted(names.union(seen.load()["tasks"]))


def destinations(prefix: str, **_: Any) -> List[str]:
    """Complete the last target of a ``dst``: its name, or its last option."""
    known = seen.load()
    others, comma, target = prefix.rpartition(",")
    done = others + comma
    name, bar, options = target.partition("|")
    if not bar:
        return _after(done, [*_LOCAL, *known["nodes"]])
    others, semicolon, option = options.rpartition(";")
    done += name + bar + others + semicolon
    has = [*_OPTIONS, *known["options"]]
    key, equals, values = option.partition("=")
    if not equals:
        return _after(done, {f"{one.partition('=')[0]}=" for one in has})
    others, plus, _last = values.rpartition("+")
    done += key + equals + others + plus
    pairs = (one.partition("=") for one in has)
    return _after(done, {value for k, _, value in pairs if k == key})


def _after(done: str, words: Iterable[str]) -> List[str]:
    return [done + word for word in sorted(words) if word]


def jobs(**_: Any) -> List[str]:
    return seen.load()["jobs"]


def backend_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    return sorted(config.backends) if config else []


def channels(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    tasks = config.tasks if config else ()
    return sorted({discovery.CONTROL_CHANNEL, *(t.channel for t in tasks)})


def urls(**_: Any) -> List[str]:
    return ["redis://", "rediss://", "unix:///"]


def shares(**_: Any) -> List[str]:
    return ["1", "10%", "25%", "50%"]


def data_files(prefix: str, **_: Any) -> List[str]:
    """Complete names of files, after an @."""
    if prefix in ("", "-"):
        return ["@", "-"]
    return [f"@{name}" for name in files(prefix[1:]) if prefix[0] == "@"]


def folders(prefix: str, **_: Any) -> List[str]:
    return [name for name in files(prefix) if name.endswith("/")]


def files(prefix: str) -> List[str]:
    """Return the files that begin so; folders end with a slash."""
    folder, start = os.path.split(prefix)
    try:
        entries = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    names = [os.path.join(folder, e) for e in entries if e.startswith(start)]
    return [f"{name}/" if os.path.isdir(name) else name for name in names]


_COMPLETERS: Dict[str, Callable[..., List[str]]] = {
    "name": task_names,
    "task": task_names,
    "cancel": jobs,
    "dst": destinations,
    "data": data_files,
    "batch": shares,
    "backend": backend_names,
    "url": urls,
    "channel": channels,
    "config_dir": folders,
}
