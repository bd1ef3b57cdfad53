"""The properties that a task can set for its units, as the bus takes them.

systemd takes text in unit files only.  On the bus each property has its own
type, and sometimes another name and unit.
"""

from __future__ import annotations

import re
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
)

#: Where a unit's other properties can be set; NAME is the task's, escaped.
DROP_INS = "/etc/systemd/system/ngcp-task-NAME-.service.d"

#: What stands for no limit, of 64 bits.
INFINITY = (1 << 64) - 1

Schema = Mapping[str, Any]
# A property's name on the bus, its signature there, and its value.
Sent = Tuple[str, str, Any]


class _Kind(NamedTuple):
    """A kind of properties.

    :ivar schema: of a value in a file
    :ivar send: turns a property with such a value into what the bus takes
    """

    schema: Schema
    send: Callable[[str, Any], List[Sent]]


_FACTORS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
# As many digits as surely stay below 2^64.
_SIZE = r"[0-9]{1,16}K?|[0-9]{1,13}M|[0-9]{1,10}G|[0-9]{1,7}T"
_PERCENT = r"[0-9]{1,2}(\.[0-9]{1,2})?%|100%"
_NOT_ZERO = r"(?!0+(\.0+)?[KMGT%]?\Z)"


def _size(zero: str, what: str) -> _Kind:
    pattern = rf"^{zero}(infinity|{_SIZE}|{_PERCENT})\Z"
    return _Kind(
        {
            "type": ["integer", "string"],
            "minimum": 1 if zero else 0,
            "maximum": 10**16 - 1,
            "pattern": pattern,
            "title": f"{what}, a percentage such as 50%, or infinity",
        },
        _send_size,
    )


def _send_size(name: str, value: Any) -> List[Sent]:
    text = str(value)
    if text == "infinity":
        return [(name, "t", INFINITY)]
    if text[-1] == "%":
        share = round(float(text[:-1]) / 100 * 0xFFFFFFFF)
        return [(f"{name}Scale", "u", share)]
    number = text.rstrip("KMGT")
    return [(name, "t", int(number) << _FACTORS[text[len(number) :]])]


def _number(signature: str, least: int, most: int) -> _Kind:
    return _Kind(
        {
            "type": "integer",
            "minimum": least,
            "maximum": most,
            "title": f"a whole number from {least} to {most}",
        },
        lambda name, value: [(name, signature, value)],
    )


_OPEN_FILES = _Kind(
    _number("t", 1, 1 << 30).schema,
    lambda name, value: [(name, "t", value), (f"{name}Soft", "t", value)],
)

_UMASK = _Kind(
    {
        "type": "string",
        "pattern": r"^0?[0-7]{3}\Z",
        "title": "an octal number in quotes, such as '0027'",
    },
    lambda name, value: [(name, "u", int(value, 8))],
)

# In microseconds.
_UNITS = {
    "ms": 10**3,
    "": 10**6,
    "s": 10**6,
    "min": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 86400 * 10**6,
}
_SPAN = re.compile(r" *([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(ms|s|min|h|d|(?=\Z))")


def microseconds(value: Any) -> int:
    """Return a time span as systemd writes it, such as ``1min 30s``."""
    text = f"{value}" if isinstance(value, str) else f"{value:.3f}"
    if text == "infinity":
        return INFINITY
    return sum(
        round(float(number) * _UNITS[unit])
        for number, unit in _SPAN.findall(text)
    )


_SECONDS = _Kind(
    {
        "type": ["number", "string"],
        "minimum": 0.001,
        "maximum": 10**8,
        "pattern": rf"^(?=.*[1-9])({_SPAN.pattern})+\Z|^infinity\Z",
        "title": "a number of seconds above 0, a time span such as 1min 30s, "
        "or infinity",
    },
    lambda name, value: [
        (f"{name[: -len('Sec')]}USec", "t", microseconds(value))
    ],
)

_QUOTA = _Kind(
    {
        "type": "string",
        "pattern": rf"^{_NOT_ZERO}[0-9]{{1,6}}(\.[0-9]{{1,2}})?%\Z",
        "title": "a percentage of one processor above 0, such as 50%",
    },
    lambda name, value: [
        (f"{name}PerSecUSec", "t", round(float(value[:-1]) * 10**4))
    ],
)

_BOOLEAN = _Kind(
    {"type": "boolean", "title": "yes or no"},
    lambda name, value: [(name, "b", value)],
)


def _choice(*words: str) -> _Kind:
    either = " or ".join(words)
    return _Kind(
        {
            "type": ["boolean", "string"],
            "pattern": f"^({'|'.join(words)})\\Z",
            "title": f"yes, no, {either}",
        },
        lambda name, value: [
            (name, "s", value if isinstance(value, str) else _YES_NO[value])
        ],
    )


_YES_NO = {True: "yes", False: "no"}

_FOLDER = _Kind(
    {
        "type": "string",
        "pattern": r"^(~|-?/[^\0]*)\Z",
        "title": "an absolute path, or ~ for the user's home",
    },
    lambda name, value: [(name, "s", value)],
)


def _words(value: Any) -> List[str]:
    return value.split() if isinstance(value, str) else list(value)


def _list(word: str, first: str, title: str) -> Schema:
    """Return the schema of words, in a list or separated by spaces.

    :param word: the regular expression of one
    :param first: that of what may precede the first
    """
    return {
        "type": ["array", "string"],
        "minItems": 1,
        "items": {"type": "string", "pattern": rf"^{first}({word})\Z"},
        "pattern": rf"^{first}({word})( +({word}))*\Z",
        "title": title,
    }


_PATHS = _Kind(
    _list(r"-?\+?/\S*", "", "absolute paths, in a list or between spaces"),
    lambda name, value: [(name, "as", _words(value))],
)
_GROUPS = _Kind(
    _list(r"[^\s:/,]+", "", "groups, in a list or between spaces"),
    lambda name, value: [(name, "as", _words(value))],
)


def _inverted(value: Any) -> Tuple[bool, List[str]]:
    """Return whether a list says what not, and its words."""
    first, *others = _words(value)
    return first[0] == "~", [first.lstrip("~"), *others]


# By number, as in linux/capability.h.
_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID "
    "SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW "
    "IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD "
    "LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
_NUMBERS = {f"CAP_{name}": n for n, name in enumerate(_CAPABILITIES)}
_MAY_INVERT = "; ~ before the first means all others"


def _send_capabilities(name: str, value: Any) -> List[Sent]:
    is_inverted, words = _inverted(value)
    mask = sum(1 << _NUMBERS[word] for word in {*words})
    every = (1 << len(_NUMBERS)) - 1
    return [(name, "t", every & ~mask if is_inverted else mask)]


_CAPABILITY_SET = _Kind(
    _list(
        "|".join(_NUMBERS),
        "~?",
        f"capabilities such as CAP_NET_ADMIN{_MAY_INVERT}",
    ),
    _send_capabilities,
)


def _filter(word: str, title: str) -> _Kind:
    return _Kind(
        _list(word, "~?", f"{title}{_MAY_INVERT}"),
        lambda name, value: [(name, "(bas)", _allowed(value))],
    )


def _allowed(value: Any) -> List[Any]:
    is_inverted, words = _inverted(value)
    return [not is_inverted, words]


_MEMORY = _size(_NOT_ZERO, "a size above 0 such as 512M")

_TABLE: Mapping[str, _Kind] = {
    "MemoryMax": _MEMORY,
    "MemoryHigh": _MEMORY,
    "MemorySwapMax": _size("", "a size such as 512M or 0"),
    "TasksMax": _size(_NOT_ZERO, "a number above 0"),
    "CPUWeight": _number("t", 1, 10_000),
    "IOWeight": _number("t", 1, 10_000),
    "CPUQuota": _QUOTA,
    "Nice": _number("i", -20, 19),
    "OOMScoreAdjust": _number("i", -1000, 1000),
    "LimitNOFILE": _OPEN_FILES,
    "UMask": _UMASK,
    "RuntimeMaxSec": _SECONDS,
    "TimeoutStopSec": _SECONDS,
    "PrivateNetwork": _BOOLEAN,
    "PrivateTmp": _BOOLEAN,
    "PrivateDevices": _BOOLEAN,
    "NoNewPrivileges": _BOOLEAN,
    "DynamicUser": _BOOLEAN,
    "ProtectKernelTunables": _BOOLEAN,
    "ProtectSystem": _choice("full", "strict"),
    "ProtectHome": _choice("read-only", "tmpfs"),
    "WorkingDirectory": _FOLDER,
    "ReadOnlyPaths": _PATHS,
    "ReadWritePaths": _PATHS,
    "InaccessiblePaths": _PATHS,
    "SupplementaryGroups": _GROUPS,
    "CapabilityBoundingSet": _CAPABILITY_SET,
    "AmbientCapabilities": _CAPABILITY_SET,
    "RestrictAddressFamilies": _filter(
        "AF_[A-Z0-9_]+", "address families such as AF_UNIX"
    ),
    "SystemCallFilter": _filter(
        "@?[a-z0-9_-]+", "system calls, or groups such as @system-service"
    ),
}

#: JSON Schema of a task's ``properties``.
PROPERTIES_SCHEMA: Dict[str, Any] = {
    "type": "object",
    "properties": {name: kind.schema for name, kind in _TABLE.items()},
    "propertyNames": {
        "enum": [*_TABLE],
        "title": "one of the properties in ngcp-task-agent.yml(5); any other "
        f"can be set in a file {DROP_INS}/*.conf",
    },
    "title": "a mapping of systemd's properties to values",
}


def sent(properties: Mapping[str, Any]) -> Sequence[Sent]:
    """Return what systemd is sent for properties that satisfy the schema.

    :raises ValueError: for a ``~`` that is not before the first word
    """
    found: List[Sent] = []
    for name, value in properties.items():
        kind = _TABLE[name]
        if isinstance(value, list) and any(v[:1] == "~" for v in value[1:]):
            raise ValueError(f"properties.{name}: ~ must be before the first")
        found += kind.send(name, value)
    return found
