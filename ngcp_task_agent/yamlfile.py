"""YAML files whose every value knows its line.

PyYAML silently takes the last of two equal keys, and forgets where values
stood.  Here a file is first looked at as the tree that YAML calls nodes:
what is wrong is found there, all at once, and the lines are kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import yaml

# The keys and indexes that lead to a value.
Steps = Tuple[Union[str, int], ...]

_LARGEST_INT = 1 << 63  # more digits could not even be shown
_DEEPEST = 20  # levels
_MOST = 100_000  # values, each counted wherever an alias repeats it
# What YAML's escapes can make, and no path, argument or JSON text can hold.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


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

    :ivar value: what it says; None where it says nothing or is faulty
    :ivar faults: empty for a sound file
    """

    path: Path
    value: Any = None
    faults: List[Fault] = field(default_factory=list)
    lines: Dict[Steps, int] = field(default_factory=dict)

    def fault(self, steps: Steps, what: str) -> Fault:
        """A fault of the value at the end of these steps."""
        known = steps
        while known and known not in self.lines:
            known = known[:-1]
        where = ""
        for step in steps:
            if isinstance(step, int):
                where += f"[{step}]"
            else:
                where += f".{step}" if where else step
        return Fault(self.path, self.lines.get(known, 0), where, what)


class _Endless(Exception):
    """A value is not to be looked at any further."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


# What PyYAML raises for explicit tags that do not fit, such as "!!bool maybe".
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
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _look(document, loader, node, ())
        if node is not None and not document.faults:
            document.value = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        document.faults.append(_unread(path, text, error))
    except yaml.YAMLError as error:
        # Its text spans lines; the first says it.
        what = str(error).splitlines()[0]
        document.faults.append(Fault(path, 0, "", f"not YAML: {what}"))
    except _Endless as error:
        document.faults = [error.fault]
    except UNCONSTRUCTED as error:
        # An impossible date, for example.
        what = " ".join(f"{error}".split())
        document.faults.append(Fault(path, 0, "", f"not usable: {what}"))
    return document


def _unread(path: Path, text: str, error: yaml.MarkedYAMLError) -> Fault:
    """What PyYAML says of a text that is not YAML, with what to do."""
    context, problem = error.context or "", error.problem or ""
    mark = error.problem_mark or error.context_mark
    if error.context_mark and context.startswith("while scanning a"):
        mark = error.context_mark  # where it begins, not where it is noticed
    line = mark.line + 1 if mark else 0
    if problem == "but found another document":
        what = "a second document; write it into a file of its own"
        return Fault(path, line, "", what)
    what = " ".join(f"not YAML: {problem or context}".split())
    begin = error.context_mark if " flow " in context else mark
    hint = _hint(text, begin, context, problem) if begin else ""
    return Fault(path, line, "", f"{what}; {hint}" if hint else what)


def _hint(text: str, mark: yaml.Mark, context: str, problem: str) -> str:
    """What to do, where the slip is one that is often made; or nothing."""
    letter = text[mark.index : mark.index + 1]
    before = text[: mark.index].rpartition("\n")[2].rstrip()
    if problem.startswith("mapping values are not allowed"):
        if ":" in before:
            return "put the value in quotes: it holds a ':'"
        return "the line before lacks a ': ', or this one is indented too far"
    if problem.startswith("sequence entries are not allowed"):
        return "begin a list on a line of its own, or put a text in quotes"
    if problem.startswith("expected <block end>"):
        return _hint_of_rest(before, problem)
    if problem.startswith("found unknown escape character"):
        return "in single quotes a backslash is nothing special"
    if " quoted scalar" in context:
        return f"the quote {letter} has no end"
    if letter == "\t":
        return "use spaces, not tabs"
    if letter and letter in "*&!%@`|>[{?":
        where = f" of line {mark.line + 1}" if " flow " in context else ""
        return f"if the {letter}{where} begins a text, put that in quotes"
    return ""


def _hint_of_rest(before: str, problem: str) -> str:
    """What to do where something follows that does not belong there."""
    if "'<block " in problem:
        return "it is indented like no line above"
    if problem.endswith(("'?'", "'-'")):
        return "keys and the items of a list cannot stand side by side"
    last = before[-1:]
    if last in ("]", "}"):
        return "if the whole value is a text, put it in quotes"
    if last in ("'", '"'):
        if before.count(last) % 2:
            return f"is a {last} missing in a line above?"
        return "put the whole value in quotes of the other kind"
    return ""


def _look(
    document: Document, loader: Any, node: yaml.Node, steps: Steps
) -> None:
    """Keep the lines of a node and all below it, and find its faults."""
    document.lines.setdefault(steps, node.start_mark.line + 1)
    # An alias can make a value hold itself, or a small file say a lot.
    if len(steps) > _DEEPEST:
        raise _Endless(document.fault(steps, "is nested too deep"))
    if len(document.lines) > _MOST:
        raise _Endless(document.fault(steps, "holds too many values"))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _look(document, loader, item, (*steps, index))
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key_node, value_node in node.value:
            key = _key(document, loader, key_node, steps)
            if key is None:
                continue
            inner = (*steps, key)
            if key in seen:
                document.lines[inner] = key_node.start_mark.line + 1
                document.faults.append(
                    document.fault(inner, "stands here a second time")
                )
            seen.add(key)
            document.lines[inner] = key_node.start_mark.line + 1
            _look(document, loader, value_node, inner)
    elif node.tag == "tag:yaml.org,2002:int":
        if abs(loader.construct_object(node)) > _LARGEST_INT:
            document.faults.append(
                document.fault(steps, "is too large a number")
            )
    elif node.tag == "tag:yaml.org,2002:float":
        if not math.isfinite(loader.construct_object(node)):
            document.faults.append(
                document.fault(steps, "must be a finite number")
            )
    elif _UNUSABLE.search(node.value):
        what = "must not hold NUL or half a surrogate pair"
        document.faults.append(document.fault(steps, what))


def _key(
    document: Document, loader: Any, node: yaml.Node, steps: Steps
) -> Optional[str]:
    if isinstance(node, yaml.ScalarNode):
        if node.tag in (
            "tag:yaml.org,2002:str",
            "tag:yaml.org,2002:merge",
        ) and not _UNUSABLE.search(node.value):
            return str(node.value)
        value = f"'{_UNUSABLE.sub('?', node.value)}'"
    else:
        value = "this"
    fault = document.fault(steps, f"{value} is no key: it must be a string")
    document.faults.append(
        Fault(fault.path, node.start_mark.line + 1, fault.where, fault.what)
    )
    return None
