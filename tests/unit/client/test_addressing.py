"""How single nodes are addressed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.client.addressing import Group, groups_of, target_of
from ngcp_task_agent.protocol import destination
from ngcp_task_agent.protocol.identity import Identity

# Characters with a meaning, and a few without.
NAMES = st.text("*?[]!,|;=+-. aBc\u0130", min_size=1, max_size=8)
LOCAL = st.sampled_from(["local", "LocalHost", "LOCAL"])


def takes(dst: str, name: str, **facts: str) -> bool:
    """Whether the node of this name takes a request that is not local."""
    lists = {key: (value,) for key, value in facts.items()}
    node = Identity(name, frozenset({name.lower()}), lists)
    return destination.parse(dst).matches(node, "somebody")


@given(NAMES | LOCAL)
def test_any_name_is_addressed(name: str) -> None:
    assert takes(target_of(name, ""), name)


@given(NAMES | LOCAL, NAMES)
def test_no_other_name_is(name: str, other: str) -> None:
    target = target_of(name, "")
    if "," not in name and "|" not in name and name.lower() != other.lower():
        assert not takes(target, other)


def test_a_separator_in_a_name_stands_for_any_character() -> None:
    assert target_of("a,b|c", "") == "a?b?c"


def test_options_must_still_hold() -> None:
    target = target_of("prx*", "state=active;role=proxy+lb")
    assert takes(target, "prx*", state="active", role="lb")
    assert not takes(target, "prx*", state="standby", role="lb")


@pytest.mark.parametrize(
    ("dst", "groups"),
    [
        ("prx*", [Group(False, "", ("prx*",))]),
        (
            "prx01a,lb*|state=active , db* |state=active",
            [
                Group(False, "", ("prx01a",)),
                Group(
                    False,
                    "state=active",
                    ("lb*|state=active", "db* |state=active"),
                ),
            ],
        ),
        (
            "LocalHost,*,local|role=lb,local",
            [
                Group(True, "", ("LocalHost", "local")),
                Group(False, "", ("*",)),
                Group(True, "role=lb", ("local|role=lb",)),
            ],
        ),
    ],
)
def test_groups(dst: str, groups: object) -> None:
    assert groups_of(dst) == groups


def test_dst_of_a_group() -> None:
    assert groups_of("a, b|x=y,c")[0].dst == "a,c"
