"""Which options the broker takes, and what it sends for properties."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ngcp_task_agent.brokers.systemd import SystemdBroker
from ngcp_task_agent.brokers.systemd.options import OPTIONS_SCHEMA
from ngcp_task_agent.brokers.systemd.properties import sent
from ngcp_task_agent.config.explain import explain
from ngcp_task_agent.config.quick_check import is_surely_valid

RUN = {"run": "true"}


def faults(options: Dict[str, Any]) -> List[str]:
    """Return what is wrong with options, with the place of each."""
    found = [
        f"{'.'.join(map(str, steps))}: {what}"
        for steps, what in explain(options, OPTIONS_SCHEMA)
    ]
    assert is_surely_valid(options, OPTIONS_SCHEMA) == (not found)
    if not found:
        try:
            SystemdBroker(options)
        except ValueError as error:
            found = [f"{error}"]
    return found


GOOD: List[Any] = [
    {"unit": "nginx", "verb": "restart"},
    {"unit": "a@b.c@d\\x2de:f.timer", "verb": "stop", "timeout": 0},
    {"unit": "ngcp-task-agent", "verb": "reload"},
    RUN,
    {**RUN, "properties": {}},
]


@pytest.mark.parametrize("options", GOOD)
def test_good(options: Dict[str, Any]) -> None:
    assert not faults(options)


BAD: List[Any] = [
    ({}, "the key 'unit' or the key 'run' is missing"),
    ({"unit": "x"}, "unit: needs the key 'verb'"),
    ({**RUN, "verb": "start"}, "verb: needs the key 'unit'"),
    (
        {"unit": "x", "verb": "start", "run": "x"},
        "run: give unit or run, not both",
    ),
    ({"unit": "x", "verb": "stop", "args": "x"}, "args: needs the key 'run'"),
    ({"unit": "x", "verb": "kill"}, "verb: must be one of start, stop,"),
    ({"unit": "x@.service", "verb": "start"}, "unit: must be the name of"),
    ({"unit": "a/b", "verb": "start"}, "unit: must be the name of a unit"),
    ({"unit": "\u00e4", "verb": "start"}, "unit: must be the name of a unit"),
    ({"unit": "x" * 250, "verb": "start"}, "unit: has more than 255"),
    (
        {"unit": "ngcp-task-agent.service", "verb": "restart"},
        "unit: the agent cannot restart itself",
    ),
    ({**RUN, "MemoryMax": 1}, "MemoryMax: unknown key; it belongs in prop"),
    (
        {**RUN, "properties": {"LimitCORE": 0}},
        "properties.LimitCORE: must be one of the properties in "
        "ngcp-task-agent.yml(5); any other can be set in a file "
        "/etc/systemd/system/ngcp-task-NAME-.service.d/",
    ),
    (
        {**RUN, "as_user": "nobody", "properties": {"DynamicUser": True}},
        "give as_user or DynamicUser, not both",
    ),
    (
        {**RUN, "properties": {"SystemCallFilter": ["read", "~write"]}},
        "properties.SystemCallFilter: ~ must be before the first",
    ),
]


@pytest.mark.parametrize(("options", "fault"), BAD)
def test_bad(options: Dict[str, Any], fault: str) -> None:
    found = faults(options)
    assert any(text.startswith(fault) for text in found), found


MOST = (1 << 64) - 1
VALUES: List[Any] = [
    ("MemoryMax", 1, [("MemoryMax", "t", 1)]),
    ("MemoryMax", "64M", [("MemoryMax", "t", 64 << 20)]),
    ("MemoryMax", "1T", [("MemoryMax", "t", 1 << 40)]),
    ("MemoryMax", "infinity", [("MemoryMax", "t", MOST)]),
    ("MemoryMax", "50%", [("MemoryMaxScale", "u", 0x80000000)]),
    ("MemoryHigh", "100%", [("MemoryHighScale", "u", 0xFFFFFFFF)]),
    ("MemorySwapMax", 0, [("MemorySwapMax", "t", 0)]),
    ("TasksMax", "100", [("TasksMax", "t", 100)]),
    ("CPUWeight", 10_000, [("CPUWeight", "t", 10_000)]),
    ("IOWeight", 1, [("IOWeight", "t", 1)]),
    ("Nice", -20, [("Nice", "i", -20)]),
    ("OOMScoreAdjust", 1000, [("OOMScoreAdjust", "i", 1000)]),
    (
        "LimitNOFILE",
        9,
        [("LimitNOFILE", "t", 9), ("LimitNOFILESoft", "t", 9)],
    ),
    ("UMask", "0027", [("UMask", "u", 0o27)]),
    ("UMask", "077", [("UMask", "u", 0o77)]),
    ("RuntimeMaxSec", 1.5, [("RuntimeMaxUSec", "t", 1_500_000)]),
    ("RuntimeMaxSec", "1min 30s", [("RuntimeMaxUSec", "t", 90_000_000)]),
    ("RuntimeMaxSec", "1h30", [("RuntimeMaxUSec", "t", 3_630_000_000)]),
    ("TimeoutStopSec", "250ms", [("TimeoutStopUSec", "t", 250_000)]),
    ("TimeoutStopSec", "infinity", [("TimeoutStopUSec", "t", MOST)]),
    ("CPUQuota", "50%", [("CPUQuotaPerSecUSec", "t", 500_000)]),
    ("CPUQuota", "212.5%", [("CPUQuotaPerSecUSec", "t", 2_125_000)]),
    ("PrivateTmp", False, [("PrivateTmp", "b", False)]),
    ("ProtectSystem", True, [("ProtectSystem", "s", "yes")]),
    ("ProtectSystem", "strict", [("ProtectSystem", "s", "strict")]),
    ("ProtectHome", "tmpfs", [("ProtectHome", "s", "tmpfs")]),
    ("ProtectHome", False, [("ProtectHome", "s", "no")]),
    ("WorkingDirectory", "~", [("WorkingDirectory", "s", "~")]),
    ("WorkingDirectory", "/a b", [("WorkingDirectory", "s", "/a b")]),
    ("ReadOnlyPaths", "/a -/b", [("ReadOnlyPaths", "as", ["/a", "-/b"])]),
    ("ReadWritePaths", ["+/a"], [("ReadWritePaths", "as", ["+/a"])]),
    (
        "SupplementaryGroups",
        "a b",
        [("SupplementaryGroups", "as", ["a", "b"])],
    ),
    (
        "CapabilityBoundingSet",
        "CAP_CHOWN CAP_KILL",
        [("CapabilityBoundingSet", "t", 1 << 0 | 1 << 5)],
    ),
    (
        "CapabilityBoundingSet",
        ["~CAP_CHOWN"],
        [("CapabilityBoundingSet", "t", (1 << 41) - 2)],
    ),
    (
        "RestrictAddressFamilies",
        "~AF_INET AF_INET6",
        [
            (
                "RestrictAddressFamilies",
                "(bas)",
                [False, ["AF_INET", "AF_INET6"]],
            )
        ],
    ),
    (
        "SystemCallFilter",
        ["@system-service"],
        [("SystemCallFilter", "(bas)", [True, ["@system-service"]])],
    ),
]


@pytest.mark.parametrize(("name", "value", "expected"), VALUES)
def test_what_is_sent(name: str, value: Any, expected: Any) -> None:
    assert not faults({**RUN, "properties": {name: value}})
    assert list(sent({name: value})) == expected


WRONG: List[Any] = [
    *[
        ("MemoryMax", v)
        for v in (0, "0", "0%", -1, "1E", "101%", "9" * 17, True)
    ],
    *[("MemoryMax", v) for v in ("99999999T", None, 1.5, "", "1 M", "5M\n")],
    *[("TasksMax", v) for v in (0, "x")],
    *[("CPUWeight", v) for v in (0, 10_001, "50", 1.0)],
    *[("Nice", v) for v in (-21, 20, "1")],
    *[("LimitNOFILE", v) for v in (0, -1, 1 << 31)],
    *[("UMask", v) for v in (22, 0o22, "22", "0088", "00022")],
    *[
        ("RuntimeMaxSec", v)
        for v in (0, -1, "0", "0s", "5 parsecs", "", 10**9)
    ],
    *[("CPUQuota", v) for v in (50, "50", "0%", "-1%", "0.00%")],
    *[("PrivateTmp", v) for v in ("yes", 1, None)],
    *[("ProtectSystem", v) for v in ("some", "read-only", "yes")],
    *[("WorkingDirectory", v) for v in ("a", "", "~/a")],
    *[("ReadOnlyPaths", v) for v in ("a", [], [""], "/a b", ["/a", 1], "")],
    *[("ReadWritePaths", v) for v in ("--/a", "+-/a", "++/a", "/b ++/a")],
    *[("CapabilityBoundingSet", v) for v in ("CAP_X", "chown", "~", [])],
    *[("RestrictAddressFamilies", v) for v in ("INET", "AF_INET,AF_UNIX")],
    *[("SystemCallFilter", v) for v in ("", "~", "read;write")],
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_is_a_fault(name: str, value: Any) -> None:
    (fault, *_) = faults({**RUN, "properties": {name: value}})
    assert fault.startswith(f"properties.{name}"), fault
    assert "must be" in fault


def test_dbus_fast_is_not_loaded_with_the_configuration() -> None:
    script = (
        "import sys\n"
        "from ngcp_task_agent.brokers.systemd import SystemdBroker\n"
        "broker = SystemdBroker({'run': 'true'})\n"
        "broker.problems(), broker.programs()\n"
        "SystemdBroker({'unit': 'x', 'verb': 'start'}).problems()\n"
        "assert not [m for m in sys.modules if m.startswith('dbus_fast.')]\n"
    )
    import subprocess

    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=Path(__file__).parents[4],
    )
