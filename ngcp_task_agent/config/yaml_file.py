"""YAML files, with the line number of every value.

PyYAML silently keeps the last of two equal keys, drops line numbers, and stops
at the first value that it cannot construct.  So the values are made from its
nodes here.  A syntax error hides all other faults of its file.

Faults repeat no value: it could be a password that lacks its quotes.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

import yaml

from ngcp_task_agent.config.faults import (
    FAULTY,
    Fault,
    Schema,
    Steps,
    Unshown,
)
from ngcp_task_agent.config.quick_check import is_surely_valid
from ngcp_task_agent.protocol.messages import UNUSABLE

DEEPEST = 20  # levels
MOST_VALUES = 100_000  # counted again wherever an alias repeats them
_LARGEST_SIMPLE = 8192  # characters, each of which may begin a level
_LARGEST_INT = 1 << 63  # Python refuses to print much larger ones
_NOT_SIMPLE = re.compile(r"[!%]|[|>][^ \n]*#")
# YAML's escapes can produce them, but no path, argument or JSON text can
# contain them.
_MUST_BE_USABLE = "must not contain NUL or half a surrogate pair"
# They look like a space, or like nothing.
_BLANK = "([^\\S \\t\\r\\n]|[\\u200b-\\u200f\\u2060\\ufeff])"
_BLANK_IN_KEY = re.compile(_BLANK)
_BLANK_AS_SPACE = re.compile(f"(?m)(?:^|[:?-]) *{_BLANK}")
# How messages of PyYAML begin, and what to say instead.
_SENTENCES = (
    ("could not find expected ':'", "a key needs a ': ' after it"),
    ("but found another document", "a file must have one document"),
    ("second occurrence", "two anchors have the same name"),
    ("expected '>'", "the tag is not closed"),
    (
        "expected the node content",
        "a value is missing, or a [ or { is not closed",
    ),
    ("expected ',' or", "the {} is not closed, or a comma is missing"),
    ("found character", "nothing can begin with this character"),
)
# Where another begins to quote a file, and not YAML's own tokens.
_QUOTATION = re.compile(
    r"""(?:(?:,[ ]but[ ]found)?[ ]|^)
    (?!'(?:<[a-z -]+>|[][{}>,:?.!%@`[ ]-]|\\t)')['"]""",
    re.VERBOSE,
)
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_SCALARS = {
    f"{_TAG}bool": "yes or no",
    f"{_TAG}float": "a usable number",
    f"{_TAG}int": "a usable number",
    f"{_TAG}null": "nothing",
    f"{_TAG}str": "a string",
    f"{_TAG}timestamp": "a usable date",
}


@dataclass
class Document:
    """A file's contents, and all that is wrong with it.

    :ivar value: None if the file is empty; FAULTY replaces each value that
        could not be read, or all of them
    :ivar warnings: do not keep the file from being used
    """

    path: Path
    value: Any = None
    faults: List[Fault] = field(default_factory=list)
    warnings: List[Fault] = field(default_factory=list)
    lines: Dict[Steps, int] = field(default_factory=dict)

    def fault(self, steps: Steps, what: str) -> Fault:
        """Make a fault of the value at these steps."""
        known = steps
        while known and known not in self.lines:
            known = known[:-1]
        return Fault(self.path, self.lines.get(known, 0), _where(steps), what)

    def add(self, steps: Steps, what: str) -> None:
        self.faults.append(self.fault(steps, what))

    def warn(self, steps: Steps, what: str) -> None:
        self.warnings.append(self.fault(steps, what))

    def validate(self, value: Any, *schemas: Schema, at: Steps = ()) -> None:
        """Add the faults of a value that every one of the schemas finds.

        :param at: the steps to the value
        """
        if schemas and not any(is_surely_valid(value, s) for s in schemas):
            self.explain(value, *schemas, at=at)

    def explain(self, value: Any, *schemas: Schema, at: Steps = ()) -> None:
        """Do the same for a value that is not surely valid."""
        # Takes long to load.
        from ngcp_task_agent.config.explain import explain

        found = [set(explain(value, schema)) for schema in schemas]
        for steps, what in set.intersection(*found):
            self.add((*at, *steps), what)

    def is_sound(self, key: str) -> bool:
        """Whether the value of a key, and what is in it, has no fault."""
        inside = re.compile(rf"{re.escape(key)}(?![^.[])")
        return not any(inside.match(fault.where) for fault in self.faults)


def _where(steps: Steps) -> str:
    where = ""
    for step in steps:
        if isinstance(step, int):
            where += f"[{step}]"
            continue
        step = "?" if isinstance(step, Unshown) else step
        # A fault is one line.
        key = step if step and step.isprintable() else json.dumps(step)
        where += f".{key}" if where else key
    return where


def unreadable(path: Path, what: str, line: int = 0) -> Document:
    """Make the document of a file that cannot be read at all."""
    return Document(path, FAULTY, [Fault(path, line, "", what)])


def parse_yaml(path: Path, text: str) -> Document:
    """Parse a file's text; all faults go into the document."""
    document = _parse_quickly(path, text) if _is_simple(text) else None
    return document or _parse_with_faults(path, text)


def _is_simple(text: str) -> bool:
    """Whether libyaml, if it accepts a text, reads it as PyYAML's parser does.

    They differ in tabs, in unusual spaces and line breaks, in tags and
    directives, in comments after a block scalar's mark, and in question marks
    between brackets.  Deep nesting would overflow libyaml's stack.
    """
    is_flow = "[" in text or "{" in text
    return (
        len(text) <= _LARGEST_SIMPLE
        and text.replace("\n", "").isprintable()
        and not _NOT_SIMPLE.search(text)
        and not (is_flow and "?" in text)
    )


def _parse_quickly(path: Path, text: str) -> Optional[Document]:
    """Parse with libyaml, ten times as fast; return None for any fault."""
    document = Document(path)
    try:
        loader = yaml.CSafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            values = _Values(document, loader, text, is_quick=True)
            document.value = values.value_of(node, ())
    except Exception:
        return None  # also where there is no libyaml
    return None if document.faults else document


def _parse_with_faults(path: Path, text: str) -> Document:
    document = Document(path)
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            values = _Values(document, loader, text)
            document.value = values.value_of(node, ())
        return document
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = (
            f"must not contain the character U+{ord(text[error.position]):04X}"
        )
    except yaml.MarkedYAMLError as error:
        line, what = _explain_syntax(text, error)
    except _TooMuch as error:
        return Document(path, FAULTY, [*error.args])
    except Exception as error:
        # For example, an escape for a character that does not exist.
        line = loader.line + 1 if loader else 0
        what = f"not YAML: {type(error).__name__}"
        if isinstance(error, RecursionError):
            what = "is nested too deeply"
    return unreadable(path, what, line)


class _TooMuch(Exception):
    """A fault that stops the parsing of the document."""


class _Values:
    """Makes values from nodes; records their lines and faults.

    :param is_quick: libyaml made the nodes, and does not always know where an
        empty value is: it is a fault
    """

    def __init__(
        self,
        document: Document,
        loader: Any,
        text: str,
        is_quick: bool = False,
    ) -> None:
        self._document = document
        self._loader = loader
        self._text = text
        self._is_quick = is_quick

    def value_of(self, node: yaml.Node, steps: Steps) -> Any:
        lines = self._document.lines
        lines.setdefault(steps, node.start_mark.line + 1)
        # With aliases, a value can contain itself, or a small file many
        # values.
        if len(steps) > DEEPEST:
            raise _TooMuch(self._document.fault(steps, "is nested too deeply"))
        if len(lines) > MOST_VALUES:
            raise _TooMuch(self._document.fault(steps, "has too many values"))
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            value: Any = [self.value_of(n, (*steps, i)) for i, n in items]
            if node.tag == f"{_TAG}seq":
                return value
        elif isinstance(node, yaml.MappingNode):
            value = self._mapping(node, steps)
            if node.tag == f"{_TAG}map":
                return value
        elif isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, steps)
        what = "a tag cannot be used here; " + _in_quotes("!")
        if node.tag in (f"{_TAG}value", _MERGE):
            what = "put it in quotes"
        return self._faulty(steps, what)

    def _mapping(self, node: yaml.MappingNode, steps: Steps) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        merged: List[Dict[str, Any]] = []
        seen: Set[str] = set()
        for key_node, value_node in node.value:
            why = self._fault_of_key(key_node, value_node)
            key = "?" if why else str(key_node.value)
            at = (*steps, key)
            self._document.lines[at] = key_node.start_mark.line + 1
            # The value of a faulty key can have faults, too.
            value = self.value_of(value_node, at)
            if why:
                self._faulty(at, why)
                continue
            if key in seen:
                self._faulty(at, "duplicate key")
            seen.add(key)
            if key_node.tag != _MERGE:
                found[key] = value
                continue
            for mapping in value if isinstance(value, list) else [value]:
                if isinstance(mapping, dict):
                    merged.append(mapping)
                elif mapping is not FAULTY:
                    self._faulty(at, "must be a mapping, or a list of these")
        for mapping in merged:
            found = {**mapping, **found}
        return found

    def _scalar(self, node: yaml.ScalarNode, steps: Steps) -> Any:
        if not node.value:
            is_unsure = self._is_quick and not node.style
            source = self._source(node.start_mark, node.end_mark)
            if is_unsure or source[:1] == "&":
                return self._faulty(steps, "is empty; " + _in_quotes("&"))
        try:
            make = self._loader.yaml_constructors[node.tag]
            value = make(self._loader, node)
        except Exception:
            # PyYAML raises almost anything for values such as "!!bool maybe".
            what = f"is not {_SCALARS[node.tag]}"
            hint = "if it is a string, put it in quotes"
            return self._faulty(steps, f"{what}; {hint}")
        if isinstance(value, int) and abs(value) > _LARGEST_INT:
            return self._faulty(steps, "is too large a number")
        if isinstance(value, float) and not math.isfinite(value):
            return self._faulty(steps, "must be a finite number")
        if UNUSABLE.search(node.value):
            return self._faulty(steps, _MUST_BE_USABLE)
        return value

    def _fault_of_key(self, key: yaml.Node, value: yaml.Node) -> str:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (
            f"{_TAG}str",
            _MERGE,
        ):
            return "the key must be a string, perhaps in quotes"
        if UNUSABLE.search(key.value):
            return f"the key {_MUST_BE_USABLE}"
        blank = None if key.style else _BLANK_IN_KEY.search(key.value)
        if blank:
            return f"the key contains {_looks_like_a_space(blank[1])}"
        if (
            value.start_mark.index == value.end_mark.index
            and value.start_mark.index >= key.end_mark.index
            and ":" not in self._source(key.end_mark, value.start_mark)
        ):
            return "lacks a ': '"
        return ""

    def _source(self, begin: yaml.Mark, end: yaml.Mark) -> str:
        """Return the file's text between two marks."""
        return self._text[begin.index : end.index]

    def _faulty(self, steps: Steps, what: str) -> Any:
        self._document.add(steps, what)
        return FAULTY


def _looks_like_a_space(letter: str) -> str:
    name = f"U+{ord(letter):04X}"
    return f"the character {name}, which is not a space: write a space"


def _in_quotes(letter: str) -> str:
    return f"if the {letter} begins a string, put it in quotes"


def _explain_syntax(text: str, error: yaml.MarkedYAMLError) -> Tuple[int, str]:
    """Return the line, 0 if unknown, and what is wrong there."""
    context, problem = error.context or "", error.problem or ""
    mark = error.problem_mark or error.context_mark
    begins = ("while scanning a", "while parsing a tag")
    if error.context_mark and context.startswith(begins):
        mark = error.context_mark  # where it begins, not where it was noticed
    reason = _QUOTATION.split(problem)[0] or context
    for begin, sentence in _SENTENCES:
        reason = sentence if problem.startswith(begin) else reason
    what = " ".join(f"not YAML: {reason}".split())
    if not mark:
        return 0, what
    start = error.context_mark if " flow " in context else mark
    start = start or mark
    bracket = f"{text[start.index : start.index + 1]} of line {start.line + 1}"
    hint = _advice(text, start, context, problem)
    what = what.replace("{}", bracket)
    return mark.line + 1, f"{what}; {hint}" if hint else what


def _advice(text: str, mark: yaml.Mark, context: str, problem: str) -> str:
    """Suggest how to correct a common mistake; empty for any other."""
    letter = text[mark.index : mark.index + 1]
    before = text[: mark.index].rpartition("\n")[2].rstrip()
    lines = text.split("\n")[max(mark.line - 1, 0) : mark.line + 1]
    blank = _BLANK_AS_SPACE.search("\n".join(lines))
    if blank:
        return f"here or above is {_looks_like_a_space(blank[1])}"
    if problem == "but found another document":
        return "put the second document in its own file"
    if problem.startswith("mapping values are not allowed"):
        if ":" in before:
            return "put the value in quotes: it contains a ':'"
        return "the line before lacks a ': ', or this one is indented too far"
    if problem.startswith("sequence entries are not allowed"):
        return "start the list on a new line, or put the string in quotes"
    if problem.startswith("expected <block end>"):
        if "'<block " in problem:
            return "its indentation matches no line above"
        if problem.endswith(("'?'", "'-'")):
            return "keys and list items cannot be mixed"
        if before[-1:] in ("]", "}"):
            return "if the whole value is a string, put it in quotes"
        if before[-1:] in ("'", '"'):
            if before.count(before[-1]) % 2:
                return f"is a {before[-1]} missing in a line above?"
            return "put the whole value in quotes of the other kind"
        return ""
    if problem.startswith("found unknown escape character"):
        return "in single quotes a backslash is an ordinary character"
    if " quoted scalar" in context:
        return f"the quote {letter} is not closed"
    if letter == "\t":
        return "use spaces, not tabs"
    if letter and letter in "*&!%@`|>[{?":
        return _in_quotes(letter)
    return ""
