"""The options of a ``redis`` backend, and of the tasks that use it."""

from __future__ import annotations

import ipaddress
from typing import Any, Mapping

from ngcp_task_agent.protocol.messages import SURROGATE

LONGEST_CHANNEL = 512  # characters
PING_INTERVAL = 10.0  # seconds, by default

_TEXT = {"type": "string", "minLength": 1, "title": "a string"}
# An address may contain colons, but not just one.
_HOST = r"^([^:/\[\]\s]+|[^:/\[\]\s]*(:[^:/\[\]\s]*){2,})\Z"
_PATH = {"type": "string", "pattern": "^/", "title": "an absolute path"}

#: JSON Schema of ``backends/NAME.yml``
OPTIONS: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "host": {
            "type": "string",
            "pattern": _HOST,
            "title": "a host name or an address, without a port",
        },
        "port": {
            "type": "integer",
            "minimum": 1,
            "maximum": 65535,
            "title": "a port number, 1 to 65535",
        },
        "db": {
            "type": "integer",
            "minimum": 0,
            "title": "a whole number, at least 0",
        },
        "unix_socket": _PATH,
        "username": _TEXT,
        "password": {**_TEXT, "format": "secret"},
        "password_file": {**_PATH, "format": "secret-file"},
        "tls": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "ca": {**_PATH, "format": "file"},
                "cert": {**_PATH, "format": "file"},
                "key": {**_PATH, "format": "secret-file"},
            },
            "dependentRequired": {"key": ["cert"]},
            "title": "a mapping of ca, cert and key",
        },
        "ping_interval": {
            "type": "number",
            "minimum": 0.1,
            "maximum": 3600,
            "title": "a number of seconds, 0.1 to 3600",
        },
        "allow_replica": {"type": "boolean", "title": "yes or no"},
    },
    "allOf": [
        {"not": {"required": ["password", "password_file"]}},
        {"not": {"required": ["host", "unix_socket"]}},
        {"not": {"required": ["port", "unix_socket"]}},
        {"not": {"required": ["tls", "unix_socket"]}},
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


def risks(options: Mapping[str, Any]) -> Mapping[str, str]:
    """Find a password that crosses the network in the clear."""
    secret = {"password", "password_file"} & options.keys()
    host = str(options.get("host", "localhost"))
    if not secret or "tls" in options or _is_loopback(host):
        return {}
    what = "goes to another machine unencrypted: use tls"
    return dict.fromkeys(secret, what)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "ip6-localhost", "ip6-loopback")


def valid_channel(value: Any) -> bool:
    """Whether this can be a channel's name; Redis itself has no limit."""
    is_text = isinstance(value, str) and 1 <= len(value) <= LONGEST_CHANNEL
    # UTF-8 cannot encode half a surrogate pair.
    return is_text and not SURROGATE.search(value)
