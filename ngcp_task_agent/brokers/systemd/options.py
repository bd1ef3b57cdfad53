"""The options of the broker's two forms."""

from __future__ import annotations

from typing import Any, Dict

from ngcp_task_agent.brokers.program import OPTIONS
from ngcp_task_agent.brokers.systemd.names import UNIT_NAME
from ngcp_task_agent.brokers.systemd.properties import PROPERTIES_SCHEMA

#: The methods of systemd's manager, by verb.
VERBS = {
    "start": "StartUnit",
    "stop": "StopUnit",
    "restart": "RestartUnit",
    "reload": "ReloadUnit",
    "reload-or-restart": "ReloadOrRestartUnit",
    "try-restart": "TryRestartUnit",
}

_UNIT: Dict[str, Any] = {
    "unit": {
        "type": "string",
        "pattern": UNIT_NAME,
        "title": "the name of a unit, such as nginx or x@y.service",
    },
    "verb": {"enum": [*VERBS], "title": f"one of {', '.join(VERBS)}"},
}
_RUN = {**OPTIONS, "properties": PROPERTIES_SCHEMA}

#: JSON Schema of the broker's options: those of one form, and ``timeout``.
OPTIONS_SCHEMA: Dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {**_UNIT, **_RUN},
    "not": {"required": ["unit", "run"]},
    "dependentRequired": {
        "unit": ["verb"],
        "verb": ["unit"],
        **{key: ["run"] for key in _RUN if key not in ("run", "timeout")},
    },
}
