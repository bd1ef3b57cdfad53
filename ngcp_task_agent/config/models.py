"""The contents of each configuration file, as named tuples.

Each parse function takes the document of one file, adds the faults that it
finds, and returns None if the document has any.  With ``checking``, it also
warns about what does not exist.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    TypeVar,
)

from ngcp_task_agent.brokers.agent import BUILT_IN
from ngcp_task_agent.brokers.base import Broker, Program
from ngcp_task_agent.config import permissions
from ngcp_task_agent.config.faults import (
    FAULTY,
    Fault,
    Schema,
    Steps,
    meant,
)
from ngcp_task_agent.config.plugins import Plugins
from ngcp_task_agent.config.quick_check import is_surely_valid
from ngcp_task_agent.config.yaml_file import Document
from ngcp_task_agent.errors import CannotStart
from ngcp_task_agent.process.spawn import find_program
from ngcp_task_agent.process.users import own_user
from ngcp_task_agent.protocol.messages import LONGEST_NAME
from ngcp_task_agent.sizes import SIZE_SCHEMA, parse_size

# In bytes.  A response without data must fit, see messages.Response.encode.
LEAST_SIZES = {
    "max_request": 1024,
    "max_response": 16384,
    "max_request_memory": 1 << 20,
}
# No control characters, and none that change the text direction.
_PRINTABLE = (
    r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f]+\Z"
)


#: Seconds that a request may be allowed to wait.
MAX_WAIT = 100_000_000

_BUILT_IN = ", ".join(BUILT_IN)

Found = TypeVar("Found")


def _text(title: str) -> Schema:
    return {"type": "string", "minLength": 1, "title": title}


def _name(title: str) -> Schema:
    return {
        "type": "string",
        "pattern": _PRINTABLE,
        "maxLength": LONGEST_NAME,
        "title": f"{title} of 1 to {LONGEST_NAME} printable characters",
    }


def _number(kind: str, title: str, least: int, most: int) -> Schema:
    title = f"{title} from {least} to {most}"
    return {"type": kind, "minimum": least, "maximum": most, "title": title}


def _list(title: str, items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, "title": title, **more}


AGENT_SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "node": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "name": _name("a name"),
                "aliases": _list("a list of names", _name("a name")),
                "roles": _list("a list of roles", _name("a role")),
                "state": _text("a state such as active"),
                "state_command": _list(
                    "a list: a program and its arguments",
                    _text("a string"),
                    minItems=1,
                ),
                "status": _text("a status such as online"),
                "labels": {
                    "type": "object",
                    "additionalProperties": _name("a value"),
                    "propertyNames": {
                        **_name("a label"),
                        "not": {"pattern": "^(?i:state|status|role)\\Z"},
                        "title": "a label other than state, status and role, "
                        f"of 1 to {LONGEST_NAME} printable characters",
                    },
                    "title": "a mapping of labels to strings",
                },
            },
        },
        "max_request": SIZE_SCHEMA,
        "max_response": SIZE_SCHEMA,
        "max_request_memory": SIZE_SCHEMA,
        "max_running": _number("integer", "a whole number", 1, 10_000),
        "stop_timeout": _number("number", "a number of seconds", 0, 3600),
        "built_in_tasks": {
            "type": ["boolean", "array"],
            "items": {"enum": [*BUILT_IN], "title": f"one of {_BUILT_IN}"},
            "title": f"yes, no, or a list of some of {_BUILT_IN}",
        },
        "built_in_allow_src": _list(
            "a list of patterns for names", _text("a string")
        ),
    },
}

BACKEND_SCHEMA: Schema = {
    "type": "object",
    "properties": {"type": _text("the name of a type")},
}

TASK_SCHEMA: Schema = {
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
        "max_running": _number("integer", "a whole number", 1, 10_000),
        "max_queued": _number("integer", "a whole number", 0, 100_000),
        "max_wait": _number("number", "a number of seconds", 0, MAX_WAIT),
        "allow_src": _list("a list of patterns for names", _text("a string")),
        "data_schema": {
            "type": ["object", "boolean"],
            "title": "a JSON Schema",
        },
    },
}


_NOTHING: Mapping[str, Any] = MappingProxyType({})

#: The state or status of a node when it cannot be determined.
UNKNOWN = "unknown"


class NodeConfig(NamedTuple):
    """The ``node`` section of agent.yml; None for keys that are not given."""

    name: Optional[str] = None
    aliases: Tuple[str, ...] = ()
    roles: Optional[Tuple[str, ...]] = None
    state: Optional[str] = None
    state_command: Optional[Tuple[str, ...]] = None
    status: Optional[str] = None
    labels: Mapping[str, str] = _NOTHING


class AgentConfig(NamedTuple):
    """``agent.yml``; sizes in bytes, times in seconds."""

    node: NodeConfig = NodeConfig()
    max_request: int = 1 << 20
    max_response: int = 8 << 20
    max_request_memory: int = 64 << 20
    max_running: int = 64
    stop_timeout: float = 20.0
    built_in_tasks: Tuple[str, ...] = tuple(BUILT_IN)
    built_in_allow_src: Optional[Tuple[str, ...]] = None


#: Replaces a faulty agent.yml, which leaves the node's identity unknown, and
#: who may ask for built-in tasks.
UNKNOWN_NODE = AgentConfig(
    NodeConfig(state=UNKNOWN, status=UNKNOWN, roles=()), built_in_tasks=()
)


class BackendConfig(NamedTuple):
    """``backends/NAME.yml``; the options are for the backend."""

    path: Path
    name: str
    type: str
    options: Mapping[str, Any]


#: What can belong to one task only: a backend, a channel on it, and a name.
Place = Tuple[str, str, str]


class TaskConfig(NamedTuple):
    """A file of ``tasks/``; the options are for the broker."""

    path: Path
    name: str
    backend: str
    channel: str
    broker: str
    broker_options: Mapping[str, Any] = _NOTHING
    description: str = ""
    enabled: bool = True
    max_running: int = 8
    max_queued: int = 64
    max_wait: float = 0.0
    allow_src: Optional[Tuple[str, ...]] = None
    data_schema: Optional[Mapping[str, Any]] = None
    is_built_in: bool = False

    @property
    def place(self) -> Place:
        return self.backend, self.channel, self.name


def parse_agent(
    document: Document,
    checking: bool = False,
    seen: Optional[permissions.Seen] = None,
) -> Optional[AgentConfig]:
    value = {} if document.value is None else document.value
    document.validate(value, AGENT_SCHEMA)
    if not isinstance(value, dict):
        return None
    keys, node = dict(value), value.get("node")
    if isinstance(node, dict) and {"state", "state_command"} <= node.keys():
        what = "give state or state_command, not both"
        document.add(("node", "state_command"), what)
    for key, least in LEAST_SIZES.items():
        if key in value and document.is_sound(key):
            keys[key] = parse_size(value[key])
            if keys[key] < least:
                document.add((key,), f"must be at least {least} bytes")
    if document.is_sound("node") and node and "state_command" in node:
        at, run = ("node", "state_command"), node["state_command"][0]
        program = Program(run, own_user())
        permissions.check_program(document, at, program, seen)
        if checking:
            _warn_if_missing(document, at, run)
    if document.faults:
        return None
    for answer, names in ((True, tuple(BUILT_IN)), (False, ())):
        if keys.get("built_in_tasks") is answer:
            keys["built_in_tasks"] = names
    node = NodeConfig(**_frozen(keys.pop("node", {})))
    config = AgentConfig(node, **_frozen(keys))
    if config.max_request > config.max_request_memory:
        what = f"exceeds max_request_memory, {config.max_request_memory} bytes"
        document.add(("max_request",), what)
    return config


def parse_backend(
    document: Document,
    plugins: Plugins,
    checking: bool = False,
    seen: Optional[permissions.Seen] = None,
) -> Optional[BackendConfig]:
    value = {} if document.value is None else document.value
    document.validate(value, BACKEND_SCHEMA)
    if not isinstance(value, dict):
        return None
    options = dict(value)
    name = document.path.stem
    type_name = options.pop("type", name)
    unknown = "unknown type '{}'"
    if "type" not in value:
        unknown = "is missing, and '{}' is not a type"
    kind = _find_named(document, "type", type_name, plugins.backends, unknown)
    kinds = [kind] if kind else plugins.backends.values()
    document.validate(options, *(kind.options_schema for kind in kinds))
    if document.faults or not kind:
        return None
    schema = kind.options_schema
    permissions.check_files(document, options, schema, (), checking, seen)
    for key, what in kind.risks(options).items():
        document.warn((key,), what)
    return BackendConfig(document.path, name, type_name, options)


def parse_task(
    document: Document,
    plugins: Plugins,
    backends: Mapping[str, Optional[BackendConfig]],
    claims: Dict[Path, Place],
    checking: bool = False,
    seen: Optional[permissions.Seen] = None,
) -> Optional[TaskConfig]:
    """
    :param backends: by name; None for one that has faults
    :param claims: where to put the task's place, if it is enabled, even if the
        document has faults
    """
    value = document.value
    if value is None:
        needed = ", ".join(TASK_SCHEMA["required"])
        what = f"is empty: a task needs at least the keys {needed}"
        document.faults.append(Fault(document.path, 0, "", what))
        return None
    if not isinstance(value, dict):
        document.validate(value, TASK_SCHEMA)
        return None
    unknown = "there is no file '{}.yml' in the folder backends"
    name = value.get("backend")
    backend = _find_named(document, "backend", name, backends, unknown)
    receiver = plugins.backends[backend.type] if backend else None
    name, unknown = value.get("broker"), "unknown broker '{}'"
    broker = _find_named(document, "broker", name, plugins.brokers, unknown)
    receivers = [receiver] if receiver else plugins.backends.values()
    brokers = [broker] if broker else plugins.brokers.values()
    _validate_task(
        document,
        backend_options=[kind.task_options_schema for kind in receivers],
        broker_options=[kind.options_schema for kind in brokers],
    )
    channel, name = "", value.get("name")
    if receiver and backend and document.is_sound("backend_options"):
        channel = receiver.channel(value.get("backend_options", {}))
        if name and document.is_sound("name") and value.get("enabled", True):
            claims[document.path] = backend.name, channel, name
    if checking and "data_schema" in value:
        # Takes long to load.
        from ngcp_task_agent.config.json_schema import unchecked_formats

        for steps, what in unchecked_formats(value["data_schema"]):
            document.warn(("data_schema", *steps), what)
    if broker and not document.faults:
        _try_broker(document, broker, checking, seen)
    if document.faults:
        return None
    keys = _frozen(value)
    keys.pop("backend_options", None)
    return TaskConfig(path=document.path, channel=channel, **keys)


def _frozen(keys: Mapping[str, Any]) -> Dict[str, Any]:
    """Replace lists by tuples."""
    lists = {k: tuple(v) for k, v in keys.items() if isinstance(v, list)}
    return {**keys, **lists}


def _find_named(
    document: Document,
    key: str,
    name: Any,
    known: Mapping[str, Optional[Found]],
    unknown: str,
) -> Optional[Found]:
    """Look a name up; add a fault if it is unknown or has faults.

    :param unknown: the fault for an unknown name, with {} for the name
    """
    if not isinstance(name, str) or not name:
        return None  # the schema reports it
    if name not in known:
        document.add((key,), unknown.format(name) + meant(name, known))
    elif known[name] is None:
        document.add((key,), f"'{name}' cannot be used: it has faults")
    return known.get(name)


def _validate_task(document: Document, **options: List[Schema]) -> None:
    """
    :param options: schemas of what plugins read; several if the plugin is
        unknown
    """
    value = document.value
    properties = dict(TASK_SCHEMA["properties"])
    for key, schemas in options.items():
        document.validate(value.get(key, {}), *schemas, at=(key,))
        # Lets a fault say that an unknown key belongs in here.
        inner = {
            name: True for s in schemas for name in s.get("properties", ())
        }
        properties[key] = {**properties[key], "properties": inner}
        if any(fault.where == key for fault in document.faults):
            value = {**value, key: FAULTY}
    if not is_surely_valid(value, TASK_SCHEMA):
        document.explain(value, {**TASK_SCHEMA, "properties": properties})
    if isinstance(value.get("data_schema"), (dict, bool)):
        # Takes long to load.
        from ngcp_task_agent.config.json_schema import explain_schema

        for steps, what in explain_schema(value["data_schema"]):
            document.add(("data_schema", *steps), what)


def _try_broker(
    document: Document,
    kind: Type[Broker],
    checking: bool,
    seen: Optional[permissions.Seen],
) -> None:
    """Let a broker refuse its options, or warn about problems."""
    at = ("broker_options",)
    options = document.value.get("broker_options", {})
    # Another package's mistake affects only the tasks that use it.
    try:
        broker = kind(options)
    except ValueError as error:
        document.add(at, f"{error}")  # what a schema cannot express
        return
    except Exception as error:
        document.add(at, f"the broker failed to start with them: {error!r}")
        return
    if not document.value.get("enabled", True):
        return
    schema = kind.options_schema
    permissions.check_files(document, options, schema, at, checking, seen)
    try:
        for key, program in broker.programs().items():
            permissions.check_program(document, (*at, key), program, seen)
        for key, what in (broker.problems() if checking else {}).items():
            document.warn((*at, key), what)
    except Exception as error:
        document.warn(at, f"the broker failed to look for problems: {error!r}")


def _warn_if_missing(document: Document, at: Steps, run: str) -> None:
    try:
        find_program(run)
    except CannotStart as error:
        document.warn(at, f"{error}")
