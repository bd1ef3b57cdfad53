"""The quick check decides as jsonschema does."""

from __future__ import annotations

import copy
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.brokers.command import CommandBroker
from ngcp_task_agent.config.explain import explain
from ngcp_task_agent.config.models import (
    AGENT_SCHEMA,
    BACKEND_SCHEMA,
    TASK_SCHEMA,
)
from ngcp_task_agent.config.quick_check import is_surely_valid

# Each of our schemas, with a value that uses all its keys.
OURS: Dict[str, Any] = {
    "agent": (
        AGENT_SCHEMA,
        {
            "node": {
                "name": "prx01a",
                "aliases": ["a", "b"],
                "roles": ["proxy"],
                "state": "active",
                "state_command": ["check", "-v"],
                "status": "online",
                "labels": {"site": "vienna"},
            },
            "max_request": "1M",
            "max_response": 65536,
            "max_request_memory": "8K",
            "max_running": 8,
            "stop_timeout": 2.5,
        },
    ),
    "backend": (BACKEND_SCHEMA, {"type": "redis", "host": "x"}),
    "task": (
        TASK_SCHEMA,
        {
            "name": "ping",
            "backend": "redis",
            "backend_options": {"control_channel": "x"},
            "broker": "command",
            "broker_options": {"run": "ping"},
            "description": "a ping",
            "enabled": True,
            "max_running": 1,
            "max_queued": 0,
            "allow_src": ["web*"],
            "data_schema": {"type": "object"},
        },
    ),
    "redis": (
        RedisBackend.options_schema,
        {
            "host": "10.0.0.1",
            "port": 6379,
            "db": 0,
            "unix_socket": "/run/redis",
            "username": "x",
            "password": "y",
            "password_file": "/etc/x",
            "tls": {"ca": "/a", "cert": "/b", "key": "/c"},
            "ping_interval": 0.5,
            "allow_replica": False,
        },
    ),
    "channel": (RedisBackend.task_options_schema, {"control_channel": "x"}),
    "command": (
        CommandBroker.options_schema,
        {
            "run": "/bin/true",
            "as_user": "nobody",
            "args": "-v 'a b'",
            "extra_args": ["[0-9]+"],
            "stdin": "data",
            "timeout": 1.5,
            "max_output": "8M",
            "log_stderr": True,
        },
    ),
}

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.integers(),
    st.floats(allow_nan=False),
    st.dates(),
    st.text(max_size=600),
    st.sampled_from(
        ["", "8M", "a b", "'", "(", "a{9999999999}", "/x", "/", "12", "\n"]
        + ["none", "state", "Role", "x" * 300, "a:1", "::1", "\u200b", "x\n"]
    ),
    st.lists(st.sampled_from(["a", "", "(", 1, None]), max_size=3),
    st.dictionaries(
        st.sampled_from(["key", "cert", "state", "Status\n", "", "x"]),
        st.sampled_from(["a", "/a", "", 1, None]),
        max_size=2,
    ),
)


def _containers(value: Any) -> List[Any]:
    found = [value] if isinstance(value, (dict, list)) else []
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            found += _containers(item)
    return found


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Change and leave out some values."""
    value = copy.deepcopy(value)
    for key in draw(st.lists(st.sampled_from([*value]), max_size=4)):
        value.pop(key, None)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(_containers(value)))
        keys: List[Any] = [*place] if isinstance(place, dict) else []
        keys = keys or [*range(len(place))]
        if isinstance(place, dict):
            keys.append("unknown")
        if keys:
            place[draw(st.sampled_from(keys))] = draw(ODD)
    return draw(ODD) if draw(st.integers(0, 9)) == 9 else value


@pytest.mark.parametrize("name", OURS)
@given(data=st.data())
def test_decides_as_jsonschema(name: str, data: st.DataObject) -> None:
    schema, full = OURS[name]
    value = data.draw(changed(full))
    assert is_surely_valid(value, schema) == (explain(value, schema) == [])


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [True]},
        {"properties": {"a": {"multipleOf": 1}}},
        {"properties": {"a": {"enum": [1, "a"]}}},
        {"pattern": "("},
        {"type": "date"},
        {"additionalProperties": False, "patternProperties": {"x": True}},
    ],
)
def test_leaves_the_rest_to_jsonschema(schema: Any) -> None:
    """Even where the value breaks no rule."""
    assert not is_surely_valid({}, schema)
