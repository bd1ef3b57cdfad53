"""What a file of the configuration says, checked, as a frozen dataclass.

Each function takes the document of one file and returns what it says, or
None and every fault of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Type

from ngcp_task_agent.brokers.base import Broker
from ngcp_task_agent.config import schemas
from ngcp_task_agent.config.plugins import Plugin, Plugins
from ngcp_task_agent.config.sizes import SIZE_SCHEMA, parse_size
from ngcp_task_agent.config.yaml_file import (
    FAULTY,
    Document,
    Fault,
    Steps,
    is_known,
)

# A response without data has to fit, see messages.Response.encode.
_LEAST_RESPONSE = 16384
_LEAST_REQUEST = 1024
_LONGEST_NAME = 255  # characters, of the src of a message
# No control characters, nor those that turn the direction of a line.
_PRINTABLE = (
    r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f]+\Z"
)

Schema = Dict[str, Any]


def _text(title: str) -> Schema:
    return {"type": "string", "minLength": 1, "title": title}


def _name(title: str) -> Schema:
    return {
        "type": "string",
        "pattern": _PRINTABLE,
        "maxLength": _LONGEST_NAME,
        "title": f"{title} of 1 to {_LONGEST_NAME} printable characters",
    }


def _number(
    least: int, most: int, title: str, kind: str = "integer"
) -> Schema:
    return {"type": kind, "minimum": least, "maximum": most, "title": title}


def _texts(title: str, item: Optional[Schema] = None) -> Schema:
    items = item or _text("a string")
    return {"type": "array", "items": items, "title": title}


_COUNT = _number(1, 10_000, "a whole number from 1 to 10000")

_AGENT: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "node": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "name": _name("a name"),
                "aliases": _texts("a list of names", _name("a name")),
                "roles": _texts("a list of roles", _name("a role")),
                "state": _text("a state such as active"),
                "state_command": {
                    **_texts("a list: a program and its arguments"),
                    "minItems": 1,
                },
                "status": _text("a status such as online"),
                "labels": {
                    "type": "object",
                    "additionalProperties": _name("a value"),
                    "propertyNames": {
                        **_name("labels"),
                        "not": {"pattern": "^(?i:state|status|role)\\Z"},
                        "title": "labels other than state, status and role, "
                        f"of at most {_LONGEST_NAME} characters",
                    },
                    "title": "a mapping of labels to strings",
                },
            },
        },
        "max_request": SIZE_SCHEMA,
        "max_response": SIZE_SCHEMA,
        "max_running": _COUNT,
        "stop_timeout": _number(
            0, 3600, "a number of seconds from 0 to 3600", "number"
        ),
    },
}

_BACKEND: Schema = {"properties": {"type": _text("the name of a type")}}

_TASK: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "backend", "broker"],
    "properties": {
        "name": {
            **_text("a name of 1 to 128 characters"),
            "maxLength": 128,
        },
        "backend": _text("the name of a file in backends/, without .yml"),
        "backend_options": {"type": "object"},
        "broker": _text("the name of a broker"),
        "broker_options": {"type": "object"},
        "description": {"type": "string"},
        "enabled": {"type": "boolean"},
        "max_running": _COUNT,
        "max_queued": _number(0, 100_000, "a whole number from 0 to 100000"),
        "allow_src": _texts("a list of patterns for names"),
        "data_schema": {
            "type": ["object", "boolean"],
            "title": "a JSON Schema",
        },
    },
}


#: A node whose state or status cannot be found out.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class NodeConfig:
    """The ``node`` part of agent.yml; None where it is silent."""

    name: Optional[str] = None
    aliases: Tuple[str, ...] = ()
    roles: Optional[Tuple[str, ...]] = None
    state: Optional[str] = None
    state_command: Optional[Tuple[str, ...]] = None
    status: Optional[str] = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentConfig:
    """``agent.yml``; sizes in bytes, times in seconds."""

    node: NodeConfig = field(default_factory=NodeConfig)
    max_request: int = 1 << 20
    max_response: int = 8 << 20
    max_running: int = 64
    stop_timeout: float = 20.0


@dataclass(frozen=True)
class BackendConfig:
    """``backends/NAME.yml``; the options are the backend's affair."""

    path: Path
    name: str
    type: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class TaskConfig:
    """A file of ``tasks/``; the options are the plugins' affair."""

    path: Path
    name: str
    backend: str
    channel: str
    broker: str
    broker_options: Mapping[str, Any]
    description: str
    enabled: bool
    max_running: int
    max_queued: int
    allow_src: Optional[Tuple[str, ...]]
    data_schema: Optional[Mapping[str, Any]]


def agent(document: Document) -> Tuple[Optional[AgentConfig], List[Fault]]:
    value = {} if document.value is None else document.value
    faults = schemas.check(document, value, _AGENT)
    if not isinstance(value, dict):
        return None, faults
    node = value.get("node", {})
    if isinstance(node, dict) and {"state", "state_command"} <= node.keys():
        what = "only one of state and state_command can be given"
        faults.append(document.fault(("node", "state_command"), what))
    faulty = {fault.where for fault in faults}
    sizes = {}
    for key, least in (
        ("max_request", _LEAST_REQUEST),
        ("max_response", _LEAST_RESPONSE),
    ):
        if key not in value or key in faulty or value[key] is FAULTY:
            continue
        sizes[key] = parse_size(value[key])
        if sizes[key] < least:
            what = f"must be at least {least} bytes"
            faults.append(document.fault((key,), what))
    if faults or document.faults:
        return None, faults
    lists = {
        key: tuple(node[key])
        for key in ("aliases", "roles", "state_command")
        if key in node
    }
    others = {key: value[key] for key in value if key != "node"}
    return (
        AgentConfig(
            node=NodeConfig(**{**node, **lists}), **{**others, **sizes}
        ),
        [],
    )


def backend(
    document: Document, plugins: Plugins
) -> Tuple[Optional[BackendConfig], List[Fault]]:
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        return None, schemas.check(document, value, {"type": "object"})
    name = document.path.stem
    type_name = value.get("type", name)
    options = {key: value[key] for key in value if key != "type"}
    faults = schemas.check(document, {"type": type_name}, _BACKEND)
    kind, found = _plugin(document, "type", type_name, plugins.backends)
    if "type" not in value and not kind:
        hint = schemas.meant(name, plugins.backends)
        what = f"the key 'type' is missing, and '{name}' is no type{hint}"
        found = [document.fault((), what)]
    faults += found
    kinds = [kind] if kind else plugins.backends.values()
    faults += _options_faults(
        document, options, [kind.options_schema for kind in kinds]
    )
    if faults or document.faults:
        return None, faults
    return BackendConfig(document.path, name, type_name, options), []


def task(
    document: Document,
    plugins: Plugins,
    backends: Mapping[str, Optional[BackendConfig]],
    others: Mapping[Tuple[str, str, str], TaskConfig],
) -> Tuple[Optional[TaskConfig], List[Fault]]:
    """
    :param backends: by name; None for one that is not usable
    :param others: the enabled tasks of other files, by backend, channel, name
    """
    value = document.value
    if value is None:
        keys = ", ".join(_TASK["required"])
        what = f"is empty: a task has at least the keys {keys}"
        return None, [Fault(document.path, 0, "", what)]
    faults = schemas.check(document, value, _task_schema(plugins))
    if not isinstance(value, dict):
        return None, faults
    channel, found = _channel(document, plugins, backends)
    faults += found
    kind, found = _plugin(
        document, "broker", value.get("broker"), plugins.brokers
    )
    faults += found
    faults += _broker_faults(document, kind, plugins)
    if value.get("enabled") is not False:
        faults += _name_faults(document, channel, others)
    faults += _data_schema_faults(document, value.get("data_schema"))
    if faults or document.faults:
        # A value of the wrong type can be found by two of the checks.
        return None, list(dict.fromkeys(faults))
    allow_src = value.get("allow_src")
    return (
        TaskConfig(
            path=document.path,
            name=value["name"],
            backend=value["backend"],
            channel=channel,
            broker=value["broker"],
            broker_options=value.get("broker_options", {}),
            description=value.get("description", ""),
            enabled=value.get("enabled", True),
            max_running=value.get("max_running", 8),
            max_queued=value.get("max_queued", 64),
            allow_src=None if allow_src is None else tuple(allow_src),
            data_schema=value.get("data_schema"),
        ),
        [],
    )


def _task_schema(plugins: Plugins) -> Schema:
    """The schema of a task, which knows what options there are."""
    properties = dict(_TASK["properties"])
    for name, options in (
        (
            "backend_options",
            [kind.task_options_schema for kind in plugins.backends.values()],
        ),
        (
            "broker_options",
            [kind.options_schema for kind in plugins.brokers.values()],
        ),
    ):
        # Their values are checked by the schema of the plugin that is named.
        keys = {key: True for o in options for key in o.get("properties", {})}
        properties[name] = {**properties[name], "properties": keys}
    return {**_TASK, "properties": properties}


def _plugin(
    document: Document, key: str, name: Any, known: Mapping[str, Type[Plugin]]
) -> Tuple[Optional[Type[Plugin]], List[Fault]]:
    """The class that a file names."""
    if not isinstance(name, str) or not name:
        return None, []  # already a fault
    if name in known:
        return known[name], []
    what = f"'{name}' is not known{schemas.meant(name, known)}"
    return None, [document.fault((key,), what)]


def _options_faults(
    document: Document,
    options: Any,
    candidates: Iterable[Mapping[str, Any]],
    at: Steps = (),
) -> List[Fault]:
    """The faults of options, whichever of the plugins is meant."""
    found = [schemas.check(document, options, c, at) for c in candidates]
    return sorted(set(found[0]).intersection(*found)) if found else []


def _channel(
    document: Document,
    plugins: Plugins,
    backends: Mapping[str, Optional[BackendConfig]],
) -> Tuple[str, List[Fault]]:
    """The control channel of a task."""
    name = document.value.get("backend")
    at = ("backend_options",)
    options = document.value.get("backend_options", {})
    backend = backends.get(name) if isinstance(name, str) else None
    if not backend:
        faults = _options_faults(
            document,
            options,
            [kind.task_options_schema for kind in plugins.backends.values()],
            at,
        )
        if not isinstance(name, str) or not name:
            return "", faults  # already a fault
        what = f"the file '{name}.yml' in the folder backends is not usable"
        if name not in backends:
            stem = re.sub(r"\.ya?ml\Z", "", name)
            what = (
                f"there is no file '{name}.yml' in the folder backends"
                f"{schemas.meant(stem, backends)}"
            )
        return "", [document.fault(("backend",), what), *faults]
    kind = plugins.backends[backend.type]
    faults = schemas.check(document, options, kind.task_options_schema, at)
    if faults or not is_known(options):
        return "", faults
    return kind.channel(options), []


def _name_faults(
    document: Document,
    channel: str,
    others: Mapping[Tuple[str, str, str], TaskConfig],
) -> List[Fault]:
    name, backend = map(document.value.get, ("name", "backend"))
    if not isinstance(name, str) or not isinstance(backend, str):
        return []  # already a fault
    other = others.get((backend, channel, name))
    if not other:
        return []
    what = f"{other.path} has a task of that name, on that channel"
    return [document.fault(("name",), what)]


def _broker_faults(
    document: Document, kind: Optional[Type[Broker]], plugins: Plugins
) -> List[Fault]:
    at = ("broker_options",)
    options = document.value.get("broker_options", {})
    kinds = [kind] if kind else plugins.brokers.values()
    faults = _options_faults(
        document, options, [kind.options_schema for kind in kinds], at
    )
    if kind and not faults and is_known(options):
        try:
            kind(options)
        except ValueError as error:
            # What no schema can say.
            faults.append(document.fault(at, f"{error}"))
        except Exception as error:
            # Another package's mistake stays with the tasks that use it.
            what = f"the broker cannot be made of them: {error!r}"
            faults.append(document.fault(at, what))
    return faults


def _data_schema_faults(document: Document, schema: Any) -> List[Fault]:
    if not isinstance(schema, (dict, bool)):
        return []
    return [
        document.fault(("data_schema", *steps), what)
        for steps, what in schemas.check_schema(schema)
    ]
