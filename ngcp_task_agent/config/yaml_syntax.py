"""What is wrong with the syntax of a YAML file, in words.

It quotes no value: it could be a password that lacks its quotes.
"""

from __future__ import annotations

import re
from typing import Tuple

import yaml

from ngcp_task_agent.config.faults import in_quotes

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


def blank_in(key: str) -> str:
    """Describe a character in a key that only looks like a space, if any."""
    blank = _BLANK_IN_KEY.search(key)
    return _looks_like_a_space(blank[1]) if blank else ""


def _looks_like_a_space(letter: str) -> str:
    name = f"U+{ord(letter):04X}"
    return f"the character {name}, which is not a space: write a space"


def explain(text: str, error: yaml.MarkedYAMLError) -> Tuple[int, str]:
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
        return in_quotes(letter)
    return ""
