"""Packages whose ``__init__.py`` runs only once a name in it is used.

``import redis.asyncio.connection`` first runs ``redis/__init__.py``, which
loads all commands and clients of redis-py: a third of the agent's start, and
several MB, of which the agent uses nothing.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any, Dict

_deferred: Dict[str, ModuleType] = {}
# Held while one is run: then other threads wait, as for any import.
_running = threading.RLock()


def defer(name: str) -> None:
    """Let modules of a package be imported without its ``__init__.py``.

    That runs once someone, such as a plugin, asks for a name that is not one
    of the package's modules.  Does nothing if it has run already.

    :param name: of a package that is in none, or in a deferred one
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if not spec:
        return  # an import says so, if there is none
    module = importlib.util.module_from_spec(spec)

    def find(wanted: str) -> Any:
        part = f"{name}.{wanted}"
        if name in _deferred and importlib.util.find_spec(part):
            return importlib.import_module(part)
        _load(name)
        try:
            return vars(module)[wanted]
        except KeyError:
            text = f"module '{name}' has no attribute '{wanted}'"
            raise AttributeError(text) from None

    vars(module)["__getattr__"] = find  # PEP 562
    _deferred[name] = sys.modules[name] = module
    above, _, last = name.rpartition(".")
    if above:
        setattr(sys.modules[above], last, module)


def _load(name: str) -> None:
    """Run a package's ``__init__.py``, after those of what it is in."""
    above = name.rpartition(".")[0]
    with _running:
        if above:
            _load(above)
        module = _deferred.pop(name, None)
        if module:
            find = vars(module)["__getattr__"]
            try:
                importlib.reload(module)
            except BaseException:
                _deferred[name] = module
                vars(module)["__getattr__"] = find
                raise
