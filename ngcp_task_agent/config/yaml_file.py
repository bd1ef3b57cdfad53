"""YAML files whose every value knows its line.

PyYAML silently takes the last of two equal keys, and forgets where values
stood; and it stops at the first value that it cannot make.  Here values are
made of the tree that YAML calls nodes: what is wrong is found there, all at
once, and the lines are kept.
"""

from __future__ import annotations

import bisect
import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple, Union

import yaml

from ngcp_task_agent.config import yaml_errors

# The keys and indexes that lead to a value.
Steps = Tuple[Union[str, int], ...]

_LARGEST_INT = 1 << 63  # more digits could not even be shown
_DEEPEST = 20  # levels
_MOST = 100_000  # values, each counted wherever an alias repeats it
# What YAML's escapes can make, and no path, argument or JSON text can hold.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_NOT_YAML = yaml.reader.Reader.NON_PRINTABLE
_STAND_IN = "\ufffd"
_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = {
    "!!bool": "yes or no",
    "!!float": "a usable number",
    "!!int": "a usable number",
    "!!null": "nothing",
    "!!str": "a string",
    "!!timestamp": "a usable date",
}

#: Stands for a value that has a fault, so that the others can be checked.
FAULTY = object()


@dataclass(frozen=True, order=True)
class Fault:
    """What is wrong in a file.

    :ivar line: counted from 1; 0 for the file as a whole
    :ivar where: the path of keys to the value, such as ``node.name``
    """

    path: Path
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else f"{self.path}"
        return ": ".join(filter(None, (place, self.where, self.what)))


@dataclass
class Document:
    """A file that was read.

    :ivar value: what it says; None where it says nothing or cannot be read
    :ivar is_read: whether the value is known, with FAULTY for each part
        that has a fault
    :ivar faults: empty for a sound file
    """

    path: Path
    value: Any = None
    is_read: bool = False
    faults: List[Fault] = field(default_factory=list)
    lines: Dict[Steps, int] = field(default_factory=dict)

    def fault(self, steps: Steps, what: str) -> Fault:
        """A fault of the value at the end of these steps."""
        known = steps
        while known and known not in self.lines:
            known = known[:-1]
        return Fault(self.path, self.lines.get(known, 0), _where(steps), what)


def _where(steps: Steps) -> str:
    where = ""
    for step in steps:
        if isinstance(step, int):
            where += f"[{step}]"
            continue
        # A fault is one line.
        key = step if step.isprintable() else json.dumps(step)
        where += f".{key}" if where else key
    return where


def is_known(value: Any) -> bool:
    """Whether nothing in a value is FAULTY."""
    if isinstance(value, dict):
        return all(map(is_known, value.values()))
    if isinstance(value, list):
        return all(map(is_known, value))
    return value is not FAULTY


class _Endless(Exception):
    """A value is not to be looked at any further."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


# What PyYAML raises for what it does not expect, such as "!!bool maybe".
UNCONSTRUCTED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def read(path: Path, text: str) -> Document:
    """Read the text of a file; what is wrong is in the document's faults."""
    document = Document(path)
    odd = [match.start() for match in _NOT_YAML.finditer(text)]
    # With something in their places the rest can be read all the same.
    loader = yaml.SafeLoader(_NOT_YAML.sub(_STAND_IN, text))
    tree = _Tree(document, loader, text, odd)
    try:
        node = loader.get_single_node()
        if node is not None:
            document.value = tree.look(node, ())
        document.is_read = True
        tree.tell_odd()
    except yaml.MarkedYAMLError as error:
        line, what = yaml_errors.explain(text, error)
        fault = Fault(path, line, "", what)
        document.faults = list(map(tree.odd_fault, odd[:1]))
        # Such a character can also be what is not YAML.
        if fault.line not in [odd.line for odd in document.faults]:
            document.faults.append(fault)
    except _Endless as error:
        document.faults.append(error.fault)
    except UNCONSTRUCTED as error:
        # Such as an escape for a character that there is not.
        what = "not YAML: " + " ".join(f"{error}".split())
        if isinstance(error, RecursionError):
            what = "is nested too deep"
        document.faults = [Fault(path, loader.line + 1, "", what)]
    return document


class _Tree:
    """Makes values of YAML's nodes, and finds what is wrong with them.

    :param odd: where in the text characters stand that YAML does not allow
    """

    def __init__(
        self, document: Document, loader: Any, text: str, odd: List[int]
    ) -> None:
        self._document = document
        self._loader = loader
        self._text = text
        self._odd = odd
        self._line_ends = [m.start() for m in re.finditer("\n", text)]
        self._told: Set[int] = set()

    def look(self, node: yaml.Node, steps: Steps) -> Any:
        """The value of a node; keeps the lines of all in it, and faults."""
        lines = self._document.lines
        lines.setdefault(steps, node.start_mark.line + 1)
        # An alias can make a value hold itself, or a small file say a lot.
        if len(steps) > _DEEPEST:
            raise _Endless(self._document.fault(steps, "is nested too deep"))
        if len(lines) > _MOST:
            raise _Endless(
                self._document.fault(steps, "holds too many values")
            )
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        if isinstance(node, yaml.SequenceNode):
            value: Any = [
                self.look(item, (*steps, index))
                for index, item in enumerate(node.value)
            ]
            is_known = tag == "!!seq"
        elif isinstance(node, yaml.MappingNode):
            value = self._mapping(node, steps)
            is_known = tag == "!!map"
        else:
            is_known = tag in _SCALARS
            if is_known:
                value = self._scalar(node, tag, steps)
        if is_known:
            return value
        what = f"the tag {tag} cannot be used here"
        if not tag.startswith("!!"):
            what += "; if the ! begins a text, put that in quotes"
        return self._unknown(self._document.fault(steps, what))

    def _mapping(self, node: yaml.MappingNode, steps: Steps) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        merged: List[Dict[str, Any]] = []
        seen: Set[str] = set()
        for key_node, value_node in node.value:
            is_key = self._is_key(key_node, steps)
            # What stands below no key can have faults too.
            is_scalar = isinstance(key_node, yaml.ScalarNode)
            key = str(key_node.value) if is_scalar else "?"
            inner = (*steps, key)
            self._document.lines[inner] = key_node.start_mark.line + 1
            if is_key and key in seen:
                what = "stands here a second time"
                self._document.faults.append(self._document.fault(inner, what))
            value = self.look(value_node, inner)
            if not is_key:
                continue
            seen.add(key)
            if key_node.tag == _MERGE:
                merged += self._to_merge(value, inner)
            else:
                found[key] = value
        for mapping in merged:
            for key, value in mapping.items():
                found.setdefault(key, value)
        return found

    def _to_merge(self, value: Any, steps: Steps) -> List[Dict[str, Any]]:
        values = value if isinstance(value, list) else [value]
        found = [v for v in values if isinstance(v, dict)]
        if len(found) < sum(v is not FAULTY for v in values):
            what = "must be a mapping, or a list of these"
            self._unknown(self._document.fault(steps, what))
        return found

    def _is_key(self, node: yaml.Node, steps: Steps) -> bool:
        value = "this"
        if isinstance(node, yaml.ScalarNode):
            odd = self._find_odd(node)
            if odd is not None:
                fault = self.odd_fault(odd, _where(steps))
                self._document.faults.append(fault)
                return False
            if node.tag in (
                _MERGE,
                "tag:yaml.org,2002:str",
            ) and not _UNUSABLE.search(node.value):
                return True
            value = f"'{_UNUSABLE.sub('?', node.value)}'"
        fault = self._document.fault(
            steps, f"{value} is no key: it must be a string"
        )
        line = node.start_mark.line + 1
        self._document.faults.append(replace(fault, line=line))
        return False

    def _scalar(self, node: yaml.Node, tag: str, steps: Steps) -> Any:
        odd = self._find_odd(node)
        if odd is not None:
            return self._unknown(self.odd_fault(odd, _where(steps)))
        what = ""
        try:
            value = self._loader.yaml_constructors[node.tag](
                self._loader, node
            )
        except UNCONSTRUCTED:
            what = f"is not {_SCALARS[tag]}; if it is a text, put it in quotes"
        else:
            if isinstance(value, int) and abs(value) > _LARGEST_INT:
                what = "is too large a number"
            elif isinstance(value, float) and not math.isfinite(value):
                what = "must be a finite number"
            elif _UNUSABLE.search(node.value):
                what = "must not hold NUL or half a surrogate pair"
        if what:
            return self._unknown(self._document.fault(steps, what))
        return value

    def _unknown(self, fault: Fault) -> Any:
        self._document.faults.append(fault)
        return FAULTY

    def _find_odd(self, node: yaml.Node) -> Optional[int]:
        """Where the first odd character of a scalar stands."""
        first = bisect.bisect_left(self._odd, node.start_mark.index)
        last = bisect.bisect_left(self._odd, node.end_mark.index)
        self._told.update(self._odd[first:last])
        return self._odd[first] if first < last else None

    def odd_fault(self, index: int, where: str = "") -> Fault:
        line = bisect.bisect(self._line_ends, index) + 1
        what = f"must not hold the character U+{ord(self._text[index]):04X}"
        return Fault(self._document.path, line, where, what)

    def tell_odd(self) -> None:
        """Faults of odd characters that no value holds, in comments."""
        rest = [i for i in self._odd if i not in self._told]
        self._document.faults += dict.fromkeys(map(self.odd_fault, rest))
