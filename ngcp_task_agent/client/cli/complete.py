"""Completion: names from the agent's configuration, and of files."""

from __future__ import annotations

import argparse
import os
from typing import Any, List

from ngcp_task_agent.client import discovery


def task_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    names = {
        task.name
        for task in (config.tasks if config else ())
        if parsed_args.backend in (None, task.backend)
        and parsed_args.channel in (None, task.channel)
    }
    return sorted(names)


def backend_names(parsed_args: argparse.Namespace, **_: Any) -> List[str]:
    config, _notes = discovery.load(parsed_args.config_dir)
    return sorted(config.backends) if config else []


def data_files(prefix: str, **_: Any) -> List[str]:
    """Complete names of files, after an @."""
    folder, start = os.path.split(prefix[1:])
    try:
        entries = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    names = [os.path.join(folder, e) for e in entries if e.startswith(start)]
    return [
        f"@{name}{'/' if os.path.isdir(name) else ''}"
        for name in names
        if prefix.startswith("@")
    ]
