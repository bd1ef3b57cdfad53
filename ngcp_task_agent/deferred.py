"""Packages whose own module is run only when something uses a name in it.

``import redis.asyncio.connection`` first runs ``redis/__init__.py``, which
loads all commands and clients of redis-py: a third of the agent's start, and
several MB, of which the agent uses nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def defer(name: str) -> None:
    """Let a package's modules be imported without running its own.

    That happens once someone, such as a plugin, asks for a name in it.  Does
    nothing if it has been imported already.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if not spec:
        return  # an import says so, if there is none
    module = importlib.util.module_from_spec(spec)
    contents = vars(module)

    def load(wanted: str) -> Any:
        del contents["__getattr__"]
        try:
            importlib.reload(module)
        except BaseException:
            contents["__getattr__"] = load
            raise
        return getattr(module, wanted)

    contents["__getattr__"] = load  # PEP 562
    sys.modules[name] = module
    above, _, last = name.rpartition(".")
    if above:
        setattr(sys.modules[above], last, module)
