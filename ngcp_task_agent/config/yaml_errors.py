"""Errors of YAML's syntax: what PyYAML says of them, with what to do."""

from __future__ import annotations

from typing import Tuple

import yaml


def explain(text: str, error: yaml.MarkedYAMLError) -> Tuple[int, str]:
    """The line, from 1, or 0 where none is known, and what is wrong there."""
    context, problem = error.context or "", error.problem or ""
    mark = error.problem_mark or error.context_mark
    if error.context_mark and context.startswith("while scanning a"):
        mark = error.context_mark  # where it begins, not where it is noticed
    line = mark.line + 1 if mark else 0
    if problem == "but found another document":
        return line, "a second document; write it into a file of its own"
    what = " ".join(f"not YAML: {problem or context}".split())
    begin = error.context_mark if " flow " in context else mark
    hint = _hint(text, begin, context, problem) if begin else ""
    return line, f"{what}; {hint}" if hint else what


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
