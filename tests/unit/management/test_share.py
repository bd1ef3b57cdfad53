"""What is installed for the bus and polkit agrees with the interface."""

from __future__ import annotations

from pathlib import Path
from typing import List
from xml.etree import ElementTree

from ngcp_task_agent.management import interface

SHARE = Path(__file__).parents[3] / "share"


def test_polkit_grants_nothing_by_itself() -> None:
    file = SHARE / f"polkit-1/actions/{interface.ACTION}.policy"
    root = ElementTree.parse(file).getroot()
    assert {action.get("id") for action in root.iter("action")} == {
        *(interface.RELOAD, interface.INSPECT, interface.CANCEL)
    }
    for defaults in root.iter("defaults"):
        assert [answer.text for answer in defaults] == ["no"] * 3


def test_only_root_owns_the_name_and_hears_signals() -> None:
    file = SHARE / f"dbus-1/system.d/{interface.NAME}.conf"
    others, root = ElementTree.parse(file).getroot().iter("policy")
    hears = {"receive_sender": interface.NAME, "receive_type": "signal"}
    assert others.attrib == {"context": "default"}
    assert _rules(others, "allow") == [{"send_destination": interface.NAME}]
    assert _rules(others, "deny") == [hears]
    assert root.attrib == {"user": "root"}
    assert _rules(root, "allow") == [{"own": interface.NAME}, hears]


def _rules(policy: ElementTree.Element, kind: str) -> List[object]:
    return [rule.attrib for rule in policy.iter(kind)]
