"""YAML files: values with their lines, and every fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ngcp_task_agent.backends.redis import RedisBackend
from ngcp_task_agent.config import yaml_file
from ngcp_task_agent.config.faults import FAULTY, Fault
from ngcp_task_agent.config.yaml_file import Document

PATH = Path("/etc/ngcp-task-agent/tasks/x.yml")


def read(text: str) -> Document:
    return yaml_file.parse_yaml(PATH, text)


SOUND = [
    pytest.param("", None, id="nothing"),
    pytest.param("---\n", None, id="only-a-mark"),
    pytest.param("# a comment\n", None, id="only-a-comment"),
    pytest.param("name: x", {"name": "x"}, id="mapping"),
    pytest.param("---\nname: x\n...\n", {"name": "x"}, id="marks"),
    pytest.param(
        "a: [1, 2.5, yes, null, x]",
        {"a": [1, 2.5, True, None, "x"]},
        id="types",
    ),
    pytest.param("a: {b: {c: 1}}", {"a": {"b": {"c": 1}}}, id="nested"),
    pytest.param("a: &x [1]\nb: *x", {"a": [1], "b": [1]}, id="alias"),
    pytest.param(
        "a: &x {b: 1}\nc: {<<: *x, d: 2}",
        {"a": {"b": 1}, "c": {"b": 1, "d": 2}},
        id="merge",
    ),
    pytest.param('"yes": 1', {"yes": 1}, id="quoted-key"),
]


@pytest.mark.parametrize(("text", "value"), SOUND)
def test_reads(text: str, value: Any) -> None:
    document = read(text)
    assert document.faults == []
    assert document.value == value


_DATE = "is not a usable date; if it is a string, put it in quotes"
_TAG = "a tag cannot be used here; if the ! begins a string, put it in quotes"
_NUMBER = "is not a usable number; if it is a string, put it in quotes"

FAULTS = [
    pytest.param("a: 1\na: 2", 2, "a", "duplicate key", id="duplicate"),
    pytest.param(
        "x:\n  a: 1\n  b: 2\n  a: 3",
        4,
        "x.a",
        "duplicate key",
        id="duplicate-inside",
    ),
    pytest.param(
        "- {a: 1,\n   a: 2}",
        2,
        "[0].a",
        "duplicate key",
        id="duplicate-in",
    ),
    pytest.param("a: 1\n1: 2", 2, "?", "in quotes", id="number-as-key"),
    pytest.param("yes: 2", 1, "?", "must be a string", id="boolean-as-key"),
    pytest.param("a:\n  ~: 2", 2, "a.?", "must be a string", id="null-as-key"),
    pytest.param("[a]: 2", 1, "?", "must be a string", id="list-as-key"),
    pytest.param("a: .inf", 1, "a", "finite", id="infinity"),
    pytest.param("a: 1\nb: [1, .NaN]", 2, "b[1]", "finite", id="nan"),
    pytest.param("a: [1", 1, "", "not YAML", id="no-end"),
    pytest.param("a: 1\n\tb: 2", 2, "", "not YAML", id="tab"),
    pytest.param("a: b: c", 1, "", "not YAML", id="two-colons"),
    pytest.param("a: 'x", 1, "", "not YAML", id="quote-without-end"),
    pytest.param("a: *x", 1, "", "not YAML", id="no-such-anchor"),
    pytest.param("a: 1\n---\nb: 2", 2, "", "its own file", id="two-documents"),
    pytest.param(
        'a:\n  - "x\n  \x01"', 3, "", "U+0001", id="control-character"
    ),
    pytest.param("a: 1\nb: |\n  \0\n", 3, "", "U+0000", id="nul"),
    pytest.param(
        "a:\n  \x7fb: 1", 2, "", "U+007F", id="control-character-in-key"
    ),
    pytest.param(
        "a: 1\n# \x1b", 2, "", "U+001B", id="control-character-in-comment"
    ),
    pytest.param(
        "a: 1\n\0\n", 2, "", "U+0000", id="control-character-that-is-no-yaml"
    ),
    pytest.param(
        "b: 1\na: !!python/object:os.system x",
        2,
        "a",
        "a tag cannot be used here; ",
        id="python-object",
    ),
    pytest.param("b: 1\na: !x y", 2, "a", _TAG, id="unknown-tag"),
    pytest.param("b: 1\na: !!set {x: }", 2, "a", _TAG, id="set"),
    pytest.param("a:\n- !!omap []", 2, "a[0]", _TAG, id="omap"),
    pytest.param("b: 1\na: !!binary aA==", 2, "a", _TAG, id="binary"),
    pytest.param("b: 1\na: !!str [x]", 2, "a", _TAG, id="no-string"),
    pytest.param("b: 1\na: !!map x", 2, "a", _TAG, id="no-mapping"),
    pytest.param(
        "%YAML 9.9\n---\na: 1", 1, "", "not YAML", id="another-version"
    ),
    pytest.param(
        "a: 1\nb:\n- 2001-99-99", 3, "b[0]", _DATE, id="impossible-date"
    ),
    pytest.param("b: 1\na: !!int x", 2, "a", _NUMBER, id="no-int"),
    pytest.param("b: 1\na: !!int ''", 2, "a", _NUMBER, id="empty-int"),
    pytest.param("b: 1\na: 0x_", 2, "a", _NUMBER, id="int-without-digits"),
    pytest.param("b: 1\na: !!float x", 2, "a", _NUMBER, id="no-float"),
    pytest.param(
        "b: 1\na: !!bool maybe", 2, "a", "not yes or no", id="no-boolean"
    ),
    pytest.param("b: 1\na: !!timestamp soon", 2, "a", _DATE, id="no-date"),
    pytest.param("2001-99-99", 1, "", _DATE, id="all-of-the-file"),
    pytest.param("a: 1\n<<: 1", 2, "<<", "a mapping", id="merged-number"),
    pytest.param("a: 1\n<<: [1]", 2, "<<", "a mapping", id="merged-list"),
    pytest.param(
        '"a\\nb": .inf', 1, '"a\\nb"', "finite", id="key-of-two-lines"
    ),
    pytest.param(
        'a: 1\nb: "\\UFFFFFFFF"', 2, "", "not YAML", id="no-such-character"
    ),
    pytest.param(
        "a: &x [*x]", 1, "a" + "[0]" * 20, "too deeply", id="holds-itself"
    ),
    pytest.param('a: "x\\0y"', 1, "a", "NUL", id="escaped-nul"),
    pytest.param(
        'a: 1\nb: ["\\ud800"]',
        2,
        "b[0]",
        "surrogate",
        id="escaped-half-a-pair",
    ),
    pytest.param('"\\0": 1', 1, "?", "NUL", id="nul-in-key"),
]


@pytest.mark.parametrize(("text", "line", "where", "what"), FAULTS)
def test_finds(text: str, line: int, where: str, what: str) -> None:
    (fault,) = read(text).faults
    assert what in fault.what
    assert (fault.line, fault.where) == (line, where)
    assert "\n" not in str(fault)


_COLON = "put the value in quotes: it contains a ':'"
_REST = "if the whole value is a string, put it in quotes"
_OTHER = "put the whole value in quotes of the other kind"
_ABOVE = "the line before lacks a ': ', or this one is indented too far"
_INDENTED = "its indentation matches no line above"
_SIDE = "keys and list items cannot be mixed"
_LIST = "start the list on a new line, or put the string in quotes"


def _text(letter: str) -> str:
    return f"if the {letter} begins a string, put it in quotes"


def _space(code: str) -> str:
    return f"here or above is the character U+{code}, which is not a space"


HINTS = [
    pytest.param("a: b: c", 1, _COLON, id="colon"),
    pytest.param("a: &b", 1, _text("&"), id="anchor"),
    pytest.param("a: =", 1, "", id="equals-sign"),
    pytest.param("a: say 'x', \"y\": z", 1, _COLON, id="colon-and-quotes"),
    pytest.param("a: b:", 1, _COLON, id="colon-at-the-end"),
    pytest.param("a:1\nb: 2", 2, _ABOVE, id="no-space-after-the-colon"),
    pytest.param("a b\nb: 2", 2, _ABOVE, id="no-colon"),
    pytest.param("a: 1\n  b: 2", 2, _ABOVE, id="indented-too-far"),
    pytest.param("a:\n  b: 1\n c: 2", 3, _INDENTED, id="indented-less"),
    pytest.param("a:\n  - b\n - c", 3, _INDENTED, id="item-indented-less"),
    pytest.param("a: *", 1, _text("*"), id="star"),
    pytest.param("a: *.example.org", 1, _text("*"), id="star-and-more"),
    pytest.param("a: *b", 1, _text("*"), id="no-such-anchor"),
    pytest.param("a: [b, *]", 1, _text("*"), id="star-in-a-list"),
    pytest.param("a: &", 1, _text("&"), id="ampersand"),
    pytest.param("a: %b", 1, _text("%"), id="percent"),
    pytest.param("a: @b", 1, _text("@"), id="at"),
    pytest.param("a: `b`", 1, _text("`"), id="backtick"),
    pytest.param("a: !b", 1, _text("!"), id="exclamation-mark"),
    pytest.param("a: !<b c", 1, _text("!"), id="tag"),
    pytest.param("a: |b", 1, _text("|"), id="bar"),
    pytest.param("a: >b", 1, _text(">"), id="greater"),
    pytest.param("a: ? b", 1, _text("?"), id="question-mark"),
    pytest.param("a: [b]+", 1, _REST, id="expression"),
    pytest.param("a: [[b]+]", 1, _text("["), id="expression-in-a-list"),
    pytest.param("a: [b\nc: d", 2, _text("["), id="list-without-end"),
    pytest.param("a: {b: 1\nc: d", 2, _text("{"), id="mapping-without-end"),
    pytest.param("a: {b}+", 1, _REST, id="braces"),
    pytest.param("a: 'it's'", 1, _OTHER, id="quote-in-quotes"),
    pytest.param('a: "b" c', 1, _OTHER, id="more-after-quotes"),
    pytest.param(
        "a: 'b\nc: 'd'", 2, "is a ' missing in a line above?", id="quote-above"
    ),
    pytest.param("a: 'b\nc: d\n", 1, "the quote ' is not closed", id="quote"),
    pytest.param('a: "b\nc: d', 1, 'the quote " is not closed', id="quotes"),
    pytest.param(
        'a: "\\d+"',
        1,
        "in single quotes a backslash is an ordinary character",
        id="backslash",
    ),
    pytest.param("a:\n\tb: 1", 2, "use spaces, not tabs", id="tab"),
    pytest.param("a: b\t# c", 1, "use spaces, not tabs", id="tab-later"),
    pytest.param("a: - b", 1, _LIST, id="item-behind-a-key"),
    pytest.param("- a\nb: 1", 2, _SIDE, id="key-after-items"),
    pytest.param("a:\n  b: 1\n  - c", 3, _SIDE, id="item-after-keys"),
]


@pytest.mark.parametrize(("text", "line", "hint"), HINTS)
def test_advice(text: str, line: int, hint: str) -> None:
    (fault,) = read(text).faults
    assert (fault.line, fault.what.partition("; ")[2]) == (line, hint)


_KEY = "a key needs a ': ' after it"
_VALUE = "a value is missing, or a [ or { is not closed"
_ANCHORS = "two anchors have the same name"
_FIRST = "nothing can begin with this character"


def _unclosed(bracket: str) -> str:
    return f"the {bracket} of line 1 is not closed, or a comma is missing"


SENTENCES = [
    pytest.param("a: [b, c\nd: e", 2, _unclosed("["), id="list"),
    pytest.param("a: [b, c", 1, _unclosed("["), id="last-list"),
    pytest.param("a: {b: [c]\nd: e", 2, _unclosed("{"), id="mapping"),
    pytest.param("a: {b: [c\nd: e", 2, _unclosed("["), id="inner-list"),
    pytest.param("a: [b", 1, _unclosed("["), id="list-of-one"),
    pytest.param("a: [", 1, _VALUE, id="list-of-none"),
    pytest.param("a: ,b", 1, _VALUE, id="comma"),
    pytest.param("a: 1\nb:2\nc: 3", 2, _KEY, id="no-space"),
    pytest.param("a: 1\nb 2", 2, _KEY, id="no-colon"),
    pytest.param("a: %b", 1, _FIRST, id="percent"),
    pytest.param("a: [|b]", 1, _FIRST, id="bar-in-a-list"),
    pytest.param("a:\n\tb: 1", 2, _FIRST, id="tab"),
    pytest.param(
        "a: 1\n---\nb: 2", 2, "a file must have one document", id="two"
    ),
    pytest.param("a: !<b c", 1, "the tag is not closed", id="tag"),
    pytest.param("a: &b c\nd: &b e", 2, _ANCHORS, id="anchors"),
]


@pytest.mark.parametrize(("text", "line", "sentence"), SENTENCES)
def test_says_what_is_wrong(text: str, line: int, sentence: str) -> None:
    (fault,) = read(text).faults
    what = fault.what.partition("; ")[0]
    assert (fault.line, what) == (line, f"not YAML: {sentence}")


SECRET = "Xk29secret"
SECRETS = [
    *(f"password: {letter}{SECRET}" for letter in "!*&|>%@`[{"),
    *(f"password: {letter}{SECRET} x" for letter in "!*|>%@`[{"),
    *(f"password: {letter}{SECRET}: x" for letter in "!*&|>%@`?[{"),
    *(f"password: !{SECRET}{letter}x" for letter in "!*&|>%@`?[{.<("),
    *(f"password: !{letter}{SECRET}" for letter in "!<%"),
    *(f"password: &{letter}{SECRET}" for letter in ".$/"),
    *(
        f"password: {{{key}}}"
        for key in (SECRET, f"a, {SECRET}", f"{SECRET}!")
    ),
    *(f"password: {c}{SECRET}{c}{SECRET}" for c in "'\""),
    *(f"password: {c}{SECRET}" for c in "'\""),
    f"{{host: a, password:{SECRET}}}",
    f"{{host: a, password {SECRET}}}",
    f"{{host: a, {SECRET}, port: 1}}",
    f"password {SECRET}\nhost: x",
    f"password:{SECRET}\nhost: x",
    f"password:{SECRET}",
    f"password {SECRET}",
    f"password {SECRET}: x",
    f"password:\n{SECRET}: x",
    f"password\n{SECRET}: x",
    f"? {SECRET}\n",
    f"password: - {SECRET}",
    f'password: "\\{SECRET}"',
    f'password: "\\x{SECRET}"',
    f'password: "\\UFFFFFFFF{SECRET}"',
    f"password: &a &{SECRET} b",
    f"a: &{SECRET} b\npassword: &{SECRET} c",
    f"%{SECRET}\n---\na: 1",
    f"%TAG !{SECRET}! x\n%TAG !{SECRET}! x\n---\na: 1",
    f"password: |\n  {SECRET}\n x: 1",
    f"password: 'x'\t{SECRET}: y",
    f"{SECRET}",
    f"host: [x, {SECRET}]",
    f"host: {{x: {SECRET}}}",
    f"tls: {SECRET}",
    f"ping_interval: {SECRET}",
    f"port: !!int {SECRET}",
    f"port: {SECRET}s",
    f"- {SECRET}",
    f"password: [{SECRET}]",
    "123456: x",
    "password: {123456}",
]


@pytest.mark.parametrize("text", SECRETS)
def test_faults_repeat_no_value(text: str) -> None:
    document = read(text)
    document.validate(document.value, RedisBackend.options_schema)
    assert document.faults
    for fault in document.faults:
        assert "k29" not in str(fault)
        assert "345" not in str(fault)


BLANKS = [
    pytest.param("a:\n\u00a0\u00a0b: 1", 2, "a space", id="indentation"),
    pytest.param("a:\u00a01\nb: 2", 2, "a space", id="behind-the-colon"),
    pytest.param("a:\n  b:\u3000c\n  d: e", 3, "a space", id="wide"),
    pytest.param("\ufeff\ufeffa: 1", 1, "U+FEFF", id="byte-order-mark"),
    pytest.param("a b\u200b: 1", 1, "U+200B", id="of-no-width"),
]


@pytest.mark.parametrize(("text", "line", "what"), BLANKS)
def test_what_looks_like_a_space(text: str, line: int, what: str) -> None:
    document = read(text)
    document.validate(document.value, {"type": "object"})
    (fault,) = document.faults
    assert fault.line == line
    assert what in fault.what


def test_a_key_in_quotes_may_contain_what_looks_like_a_space() -> None:
    assert read('"a\u00a0b": "\u00a0"').faults == []


def test_no_advice_for_an_unknown_mistake() -> None:
    (fault,) = read("a: ,b").faults
    assert ";" not in fault.what


def test_all_faults_at_once() -> None:
    document = read(
        "a: 1\na: 2\nb: .inf\n3: 4\nc: 2026-13-45\nd: !!bool maybe\ne: !x y\n"
    )
    assert [(fault.line, fault.where) for fault in document.faults] == [
        (2, "a"),
        (3, "b"),
        (4, "?"),
        (5, "c"),
        (6, "d"),
        (7, "e"),
    ]


def test_values_without_a_fault_are_sound() -> None:
    document = read("a: 1\nb: [x, .inf]\n3: 4\nc: {d: 2026-13-45, e: y}\n")
    assert document.value == {
        "a": 1,
        "b": ["x", FAULTY],
        "c": {"d": FAULTY, "e": "y"},
    }


@pytest.mark.parametrize("text", ["a: [", "a: &x [*x]", "[" * 50_000])
def test_unreadable_values_are_not_sound(text: str) -> None:
    document = read(text)
    assert document.value is FAULTY
    assert len(document.faults) == 1


def test_merged_values() -> None:
    """The mapping's own come first, then in the list's order."""
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*b, *a], y: 3}"
    assert read(text).value["c"] == {"x": 2, "y": 3, "z": 2}


def test_faults_below_an_invalid_key() -> None:
    document = read("1: {a: .inf}\n[b]: .nan\n")
    assert [(fault.line, fault.where) for fault in document.faults] == [
        (1, "?.a"),
        (1, "?"),
        (2, "?"),
        (2, "?"),
    ]


def test_deep_nesting() -> None:
    assert read("[" * 20 + "]" * 20).faults == []
    assert read("[" * 30 + "]" * 30).faults
    (fault,) = read("[" * 50_000).faults
    assert str(fault) == f"{PATH}:1: is nested too deeply"


def test_aliases_cannot_expand_without_limit() -> None:
    """Each line has ten times the line before: the last has a billion."""
    lines = ["a0: &a0 [x]"]
    for n in range(1, 10):
        inner = ", ".join([f"*a{n - 1}"] * 10)
        lines.append(f"a{n}: &a{n} [{inner}]")
    (fault,) = read("\n".join(lines)).faults
    assert "too many" in fault.what
    (fault,) = read("a: &x [*x, *x, *x]").faults
    assert "too deeply" in fault.what


PLACES = [
    pytest.param((), 1, "", id="whole"),
    pytest.param(("name",), 1, "name", id="key"),
    pytest.param(("node", "labels", "site"), 4, "node.labels.site", id="deep"),
    pytest.param(("list", 1), 7, "list[1]", id="item"),
    pytest.param(("list", 1, "x"), 7, "list[1].x", id="missing-in-item"),
    pytest.param(("node", "nix"), 2, "node.nix", id="missing-key"),
    pytest.param(("nix",), 1, "nix", id="missing-at-the-top"),
]


@pytest.mark.parametrize(("steps", "line", "where"), PLACES)
def test_line_of_a_value(
    steps: Tuple[Any, ...], line: int, where: str
) -> None:
    document = read(
        "name: x\nnode:\n  labels:\n    site: y\nlist:\n  - a\n  - b\n"
    )
    fault = document.fault(steps, "is wrong")
    assert (fault.line, fault.where) == (line, where)


def test_fault_as_text() -> None:
    assert str(Fault(PATH, 3, "a.b", "is wrong")) == f"{PATH}:3: a.b: is wrong"
    assert str(Fault(PATH, 0, "", "is wrong")) == f"{PATH}: is wrong"


@given(st.text() | st.text("a:-[]{}&*x!<>|'\"\\0 \n\t#%,?.~1=", max_size=40))
@example("? a")
@example("a: !!set {x}")
@example("!!omap [a: 1]")
@example("!!pairs [a: 1]")
@example("!!binary x")
@example("!!merge a: 1")
@example("<<: 5")
@example("<<: [1]")
@example("!!null x: 1")
@example("a: !!float ''")
@example("a: !!str [x]")
@example("a: !!map x")
@example("- !!timestamp 2001-01-01 24:61:61")
@example("a: 1:99:99999999999999999999")
@example("a: =")
@example("&a ? *a")
def test_any_text_is_parsed_or_has_faults(text: str) -> None:
    document = read(text)
    if not document.faults:
        assert document.value == yaml.safe_load(text)
    for fault in document.faults:
        assert fault.what
        assert fault.line
        assert "\n" not in str(fault)


_PIECES = st.lists(
    st.sampled_from(
        ["a", "b1", "- ", "x: ", ": ", "? ", "?", "\n", "\n  ", "\n- ", " "]
        + ["[", "]", "{", "}", ", ", ",", "'", '"', "#", " # b", "\t", "\r"]
        + ["|", "|-\n  ", ">+\n", ">", "&a ", "*a", "<<: ", "!", "!!str ", "%"]
        + ["@", "`", "\\", "\\x41", "\\ud800", "~", "null", "yes", "1", "1.5"]
        + ["0x1f", "1:30", ".inf", "2026-01-01", "---\n", "...\n", "--- ", "="]
        + [
            "\xa0",
            "\x85",
            "\u2028",
            "\ufeff",
            "\xfc",
            "\U0001f600",
            "x" * 1030,
        ]
    ),
    max_size=12,
).map("".join)


@given(st.one_of(_PIECES, st.tuples(_PIECES, _PIECES).map("a: 1\n".join)))
@example("{run: # x: y\n}")
@example("a: >#b\n")
@example("{a: b?}")
@example("a: !")
@example("- " * 5000)
def test_the_same_without_libyaml(text: str) -> None:
    found = read(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(yaml, "CSafeLoader")
        assert read(text) == found
