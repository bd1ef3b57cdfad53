"""The options of a ``redis`` backend, and of the tasks that use it."""

from __future__ import annotations

from typing import Any, Dict, Mapping

LONGEST_CHANNEL = 512  # characters


def _path(title: str = "an absolute path") -> Dict[str, Any]:
    return {"type": "string", "pattern": "^/", "title": title}


def _number(kind: str, title: str, **limits: float) -> Dict[str, Any]:
    return {"type": kind, "title": title, **limits}


def _not_both(one: str, other: str, title: str) -> Dict[str, Any]:
    return {"not": {"required": [one, other]}, "title": f"given {title}"}


_TEXT = {"type": "string", "minLength": 1}

#: JSON Schema of ``backends/NAME.yml``
OPTIONS: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "host": {**_TEXT, "title": "a host name or an address"},
        "port": _number(
            "integer", "a port number, 1 to 65535", minimum=1, maximum=65535
        ),
        "db": _number("integer", "the number of a database", minimum=0),
        "unix_socket": _path(),
        "username": _TEXT,
        "password": _TEXT,
        "password_file": _path(),
        "tls": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: _path("the absolute path of a PEM file")
                for name in ("ca", "cert", "key")
            },
            "dependentRequired": {"key": ["cert"]},
            "title": "a mapping of ca, cert and key; no key without cert",
        },
        "ping_interval": _number(
            "number",
            "a number of seconds, 0.1 to 3600",
            minimum=0.1,
            maximum=3600,
        ),
        "allow_replica": {"type": "boolean", "title": "yes or no"},
    },
    "allOf": [
        _not_both(
            "password",
            "password_file",
            "only one of password and password_file",
        ),
        _not_both("host", "unix_socket", "only one of host and unix_socket"),
        _not_both("port", "unix_socket", "only one of port and unix_socket"),
        _not_both(
            "tls", "unix_socket", "tls only for a host, not for a unix_socket"
        ),
    ],
}

#: JSON Schema of a task's ``backend_options``
TASK_OPTIONS: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["control_channel"],
    "properties": {
        "control_channel": {
            **_TEXT,
            "maxLength": LONGEST_CHANNEL,
            "title": "a channel's name of 1 to 512 characters",
        },
    },
}
