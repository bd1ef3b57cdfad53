"""Destinations: every form of the grammar, matched and refused."""

from __future__ import annotations

import time
from typing import Iterable, Tuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ngcp_task_agent.errors import DestinationError, Rejected
from ngcp_task_agent.protocol.destination import Destination, parse
from tests.unit.fakes import identity

# A cluster with some nodes of each role.
NODES = {
    "prx01a": identity("prx01a", roles=["proxy"]),
    "prx01b": identity("prx01b", roles=["proxy"], state="standby"),
    "prx02a": identity("prx02a", roles=["proxy"], status="offline"),
    "lb01a": identity("lb01a", roles=["lb"]),
    "lb01b": identity("lb01b", roles=["lb"], state="standby"),
    "db01a": identity("db01a", roles=["db"]),
    "db01b": identity("db01b", roles=["db"], state="standby"),
    "web01a": identity("web01a", roles=["mgmt"], site="vienna"),
    "sp1": identity(
        "sp1",
        "sp1.example.org",
        "boss",
        roles=["proxy", "lb", "db", "mgmt"],
        status="inactive",
    ),
}


def chosen(dst: str, src: str = "client") -> str:
    """Return the nodes that a destination matches, sorted by name."""
    target = parse(dst)
    found = [n for n, node in NODES.items() if target.matches(node, src)]
    return " ".join(sorted(found))


ALL = " ".join(sorted(NODES))

CHOSEN = [
    # From the first version's documentation.
    pytest.param("prx01a", "prx01a", id="name"),
    pytest.param("prx*", "prx01a prx01b prx02a", id="wildcard"),
    pytest.param(
        "*|state=active", "db01a lb01a prx01a prx02a sp1 web01a", id="active"
    ),
    pytest.param(
        "*|status=online",
        "db01a db01b lb01a lb01b prx01a prx01b web01a",
        id="online",
    ),
    pytest.param(
        "*|state=active;role=proxy", "prx01a prx02a sp1", id="active-proxies"
    ),
    pytest.param(
        "*|state=active;role=proxy+lb",
        "lb01a prx01a prx02a sp1",
        id="active-proxies-and-lbs",
    ),
    pytest.param(
        "prx01a,lb*,db01?|state=active",
        "db01a lb01a lb01b prx01a",
        id="options-belong-to-their-target",
    ),
    # The rest of the grammar.
    pytest.param("*", ALL, id="all"),
    pytest.param("nobody", "", id="nobody"),
    pytest.param("PRX01A", "prx01a", id="name-in-another-case"),
    pytest.param("boss", "sp1", id="alias"),
    pytest.param("sp1.example.org", "sp1", id="full-name"),
    pytest.param("db01[!a]", "db01b", id="negated-class"),
    pytest.param("prx0[12]a", "prx01a prx02a", id="class"),
    pytest.param("*|STATE=Standby", "db01b lb01b prx01b", id="option-case"),
    pytest.param("*|state=stand*", "db01b lb01b prx01b", id="value-pattern"),
    pytest.param("*|role=l?+d*", "db01a db01b lb01a lb01b sp1", id="values"),
    pytest.param("*|site=vienna", "web01a", id="label"),
    pytest.param("*|site=*", "web01a", id="label-is-there"),
    pytest.param("*|floor=*", "", id="unknown-label"),
    pytest.param("*|role=*", ALL, id="any-role"),
    pytest.param("*|role=li", "", id="role-of-nobody"),
    pytest.param(
        "prx01a|state=standby,prx01b", "prx01b", id="one-target-fails"
    ),
    pytest.param(
        "*|status=offline+inactive;state=active", "prx02a sp1", id="status"
    ),
    pytest.param("prx01a,prx01a", "prx01a", id="twice"),
    pytest.param(
        " prx01a , db01? | state = active ; role = lb + db ",
        "db01a prx01a",
        id="spaces",
    ),
    pytest.param("\tprx01a\n", "prx01a", id="other-white-space"),
    pytest.param(
        "*|state=active;state=standby", "", id="both-of-one-key-must-hold"
    ),
    pytest.param("*|a=b=c", "", id="equals-in-value"),
]


@pytest.mark.parametrize(("dst", "expected"), CHOSEN)
def test_matches(dst: str, expected: str) -> None:
    assert chosen(dst) == expected


def test_node_without_roles_has_no_role() -> None:
    plain = identity("plain")
    assert parse("*|state=active").matches(plain, "client")
    assert not parse("*|role=*").matches(plain, "client")


LOCAL = [
    pytest.param("prx01a", False, True, id="from-the-same-node"),
    pytest.param(" PRX01A ", False, True, id="in-another-form"),
    pytest.param("local", False, False, id="src-is-local"),
    pytest.param("localhost", False, False, id="src-is-localhost"),
    pytest.param("localhost", True, True, id="localhost-through-own-server"),
    pytest.param("prx01b", False, False, id="from-another-node"),
    pytest.param("prx01b", True, True, id="through-own-server"),
    pytest.param("web", True, True, id="through-own-server-under-any-name"),
    pytest.param("prx*", False, False, id="src-is-no-pattern"),
]


@pytest.mark.parametrize(("src", "via_own_server", "expected"), LOCAL)
@pytest.mark.parametrize("dst", ["local", "localhost", "LOCAL", " local "])
def test_local(
    dst: str, src: str, via_own_server: bool, expected: bool
) -> None:
    node = NODES["prx01a"]
    assert parse(dst).matches(node, src, via_own_server) is expected


CALLED = [
    pytest.param("sp1", True, id="name"),
    pytest.param("sp1.example.org", True, id="full-name"),
    pytest.param("boss", True, id="alias"),
    pytest.param("SP1", True, id="in-another-case"),
    pytest.param(" Boss ", True, id="spaces"),
    pytest.param("sp2", False, id="another"),
    pytest.param("sp*", False, id="no-pattern"),
    pytest.param("localhost", False, id="localhost"),
    pytest.param("", False, id="empty"),
]


@pytest.mark.parametrize(("name", "expected"), CALLED)
def test_is_called(name: str, expected: bool) -> None:
    assert NODES["sp1"].is_called(name) is expected


def test_local_with_options() -> None:
    node = NODES["prx01b"]
    assert parse("local|state=standby").matches(node, "prx01b")
    assert not parse("local|state=active").matches(node, "prx01b")
    assert not parse("local|state=active").matches(node, "x", True)


def test_own_server_does_not_matter_for_other_targets() -> None:
    assert not parse("prx01b").matches(NODES["prx01a"], "prx01b", True)


REFUSED = [
    pytest.param("", "target 1", id="empty"),
    pytest.param(" ", "target 1", id="spaces"),
    pytest.param(",", "target 1", id="comma"),
    pytest.param("a,", "target 2", id="comma-at-the-end"),
    pytest.param(",a", "target 1", id="comma-at-the-begin"),
    pytest.param("a,,b", "target 2", id="two-commas"),
    pytest.param("a,b, ,c", "target 3", id="target-of-spaces"),
    pytest.param("|state=active", "'|state=active'", id="no-name"),
    pytest.param(" |state=active", "'|state=active'", id="name-of-spaces"),
    pytest.param("a|", "'a|'", id="no-option"),
    pytest.param("a|;", "'a|;'", id="empty-options"),
    pytest.param("a|x=1;", "'a|x=1;'", id="semicolon-at-the-end"),
    pytest.param("a|;x=1", "'a|;x=1'", id="semicolon-at-the-begin"),
    pytest.param("a|x=1;;y=2", "empty option", id="two-semicolons"),
    pytest.param("a|active", "'active' has no '='", id="no-equals"),
    pytest.param("a|=active", "'=active' has no key", id="no-key"),
    pytest.param("a| =active", "has no key", id="key-of-spaces"),
    pytest.param("a|state=", "'state=' has an empty value", id="no-value"),
    pytest.param("a|state= ", "empty value", id="value-of-spaces"),
    pytest.param("a|role=lb+", "'role=lb+'", id="plus-at-the-end"),
    pytest.param("a|role=+lb", "'role=+lb'", id="plus-at-the-begin"),
    pytest.param("a|role=lb++db", "'role=lb++db'", id="two-pluses"),
    pytest.param("a|x=1|y=2", "second '|'", id="two-bars"),
    pytest.param("b,a|x=1,c|y", "'y' has no '='", id="in-the-last-target"),
]


@pytest.mark.parametrize(("dst", "quoted"), REFUSED)
def test_refuses(dst: str, quoted: str) -> None:
    with pytest.raises(DestinationError) as caught:
        parse(dst)
    assert quoted in str(caught.value)
    assert str(caught.value).startswith("dst: ")
    assert isinstance(caught.value, Rejected)


def test_quotes_are_short() -> None:
    with pytest.raises(DestinationError) as caught:
        parse("a|" + "x" * 4000)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=60) | st.text("ab*?[]!|;=+, ", max_size=30))
@example("a|b=c")
def test_any_text_is_parsed_or_refused(dst: str) -> None:
    try:
        target = parse(dst)
    except DestinationError:
        return
    assert isinstance(target, Destination)
    for node in (NODES["sp1"], NODES["web01a"]):
        assert target.matches(node, dst) in (True, False)


names = st.text("abz019*?[]!-", min_size=1, max_size=6)
options = st.tuples(
    st.text("abz", min_size=1, max_size=4), st.lists(names, min_size=1)
)
targets = st.tuples(names, st.lists(options))


def unique(parts: Iterable) -> list:
    """Return the parts without duplicates, in their order."""
    found: list = []
    for part in parts:
        if part not in found:
            found.append(part)
    return found


@given(st.lists(targets, min_size=1, max_size=4), st.booleans())
@example([("0", [("a", ["0"]), ("a", ["0", "0"])])], False)
def test_anything_that_follows_the_grammar_is_parsed(
    wanted: list, spaced: bool
) -> None:
    space = " " if spaced else ""

    def joined(separator: str, parts: list) -> str:
        return f"{space}{separator}{space}".join(parts)

    texts = []
    for name, its_options in wanted:
        text = joined(
            ";",
            [joined("=", [k, joined("+", vs)]) for k, vs in its_options],
        )
        texts.append(joined("|", [name, text]) if text else name)
    parsed = parse(joined(",", texts))
    # A duplicate in the same words counts once.
    wanted = [
        (name, [(key, unique(values)) for key, values in unique(its_options)])
        for name, its_options in unique(wanted)
    ]
    assert [
        (
            target.pattern.text,
            [(o.key, [v.text for v in o.values]) for o in target.options],
        )
        for target in parsed.targets
    ] == wanted


HOSTILE = [
    pytest.param("*a", id="stars"),
    pytest.param("[", id="brackets"),
    pytest.param("[!", id="negated-brackets"),
    pytest.param("?*", id="question-stars"),
    pytest.param("a,", id="targets"),
    pytest.param("a|b=c,", id="targets-with-options"),
    pytest.param("a|b=c;", id="options-then-nothing"),
    pytest.param("+", id="pluses"),
    pytest.param("*|role=a+", id="nonsense"),
    pytest.param("|", id="bars"),
    pytest.param("=", id="equals"),
    pytest.param("*|role=" + "[a-z]*+" * 3 + "x,", id="patterns"),
    pytest.param("\u0130", id="grows-in-lower-case"),
]


def fastest(dst: str) -> float:
    """Return the seconds to parse and match a destination, at best."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        try:
            parse(dst).matches(NODES["sp1"], "client")
        except DestinationError:
            pass
        times.append(time.perf_counter() - begin)
    return min(times)


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_text_costs_no_more_than_any_other(part: str) -> None:
    """A quadratic or exponential cost would be hundreds of times higher."""
    dst = (part * 4096)[:4096].rstrip(",;+")
    usual = fastest(("prx01a,lb*|state=active," * 171)[:4096] + "a")
    assert fastest(dst) < 50 * usual + 0.01


@pytest.mark.parametrize(
    ("dst", "names"),
    [
        ("prx01a", ("prx01a",)),
        (" Prx01a , prx01A,lb01a", ("Prx01a", "lb01a")),
        ("prx*,prx01?,prx01[ab],*", ()),
        ("local,LocalHost", ()),
        ("prx01a|state=active,lb01a", ("lb01a",)),
    ],
)
def test_names(dst: str, names: Tuple[str, ...]) -> None:
    assert parse(dst).names == names
