"""YAML files, with the line number of every value.

PyYAML silently keeps the last of two equal keys, drops line numbers, and stops
at the first value that it cannot construct.  So the values are made from its
nodes here.  libyaml makes those of most files; if it finds a fault, PyYAML's
own parser starts again.  A syntax error hides all other faults of its file.

Faults repeat no value: it could be a password that lacks its quotes.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

import yaml

from ngcp_task_agent.config.faults import (
    FAULTY,
    Fault,
    Schema,
    Steps,
    Unshown,
    in_quotes,
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
_TAG = "tag:yaml.org,2002:"
_MAP, _SEQ, _STR = f"{_TAG}map", f"{_TAG}seq", f"{_TAG}str"
_MERGE = f"{_TAG}merge"
_OF_KEYS = _STR, _MERGE
_SCALARS = {
    f"{_TAG}bool": "yes or no",
    f"{_TAG}float": "a usable number",
    f"{_TAG}int": "a usable number",
    f"{_TAG}null": "nothing",
    _STR: "a string",
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

    def forget(self, but: Steps) -> None:
        """Forget the values, and the lines of all but one."""
        self.value, lines = None, self.lines
        self.lines = {k: lines[k] for k in ((), but) if k in lines}

    def validate(self, value: Any, *schemas: Schema, at: Steps = ()) -> None:
        """Add the faults of a value that every one of the schemas finds.

        :param at: the steps to the value
        """
        if schemas and not any(is_surely_valid(value, s) for s in schemas):
            self.explain(value, *schemas, at=at)

    def explain(self, value: Any, *schemas: Schema, at: Steps = ()) -> None:
        """Do as validate(), for a value that is not surely valid."""
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
        return None  # a syntax error, or there is no libyaml
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
        from ngcp_task_agent.config import yaml_syntax

        line, what = yaml_syntax.explain(text, error)
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
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _SCALARS:
                return self._scalar(node, steps)
        elif isinstance(node, yaml.MappingNode):
            mapping = self._mapping(node, steps)
            if node.tag == _MAP:
                return mapping
        else:
            items = enumerate(node.value)
            values = [self.value_of(n, (*steps, i)) for i, n in items]
            if node.tag == _SEQ:
                return values
        what = "a tag cannot be used here; " + in_quotes("!")
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
                return self._faulty(steps, "is empty; " + in_quotes("&"))
        value: Any = node.value
        if node.tag != _STR:
            try:
                make = self._loader.yaml_constructors[node.tag]
                value = make(self._loader, node)
            except Exception:
                # PyYAML raises almost anything for values such as "!!bool x".
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
        if not isinstance(key, yaml.ScalarNode) or key.tag not in _OF_KEYS:
            return "the key must be a string, perhaps in quotes"
        if UNUSABLE.search(key.value):
            return f"the key {_MUST_BE_USABLE}"
        if self._is_quick:
            # Simple texts have no such blanks, and an empty value is a fault.
            return ""
        if not key.style:
            from ngcp_task_agent.config import yaml_syntax

            blank = yaml_syntax.blank_in(key.value)
            if blank:
                return f"the key contains {blank}"
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
