"""Salvage: who has sent a message that cannot be read.

Its sender still gets an answer if both ends of the message tell where to.
Only the request's own fields count: what is within its data may be secret,
and must not say where an answer goes.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Dict, Iterator, List, Optional, Tuple

# Bytes that are looked at, at each end; less at the end if that is too much.
_BEGIN = 8192
_ENDS = (8192, 1024)
_MOST = 600  # strings, runs of brackets, and what is between them

# How deep a field is, in what, and its name.
_Place = Tuple[int, Optional[bytes], bytes]
_PLACES: Dict[_Place, str] = {
    (1, None, b'"uuid"'): "uuid",
    (1, None, b'"task"'): "task",
    (1, None, b'"src"'): "src",
    (2, b'"options"', b'"feedback_channel"'): "feedback_channel",
}
_TOKEN = re.compile(
    rb'(?P<string>"(?:[^"\\\x00-\x1f]|\\.)*")'
    rb"|(?P<open>[\[{]+)|(?P<close>[\]}]+)|(?P<between>[\s\w:,.+-]+)|(?P<no>.)",
    re.S,
)
_REST_OF_STRING = re.compile(rb'(?:[^"\\\x00-\x1f]|\\.)*"', re.S)

# How deep it is, the name of what it is in, its own name, and its value.
_Found = Tuple[int, Optional[bytes], bytes, bytes]


def salvage(body: bytes, is_cut: bool) -> Dict[str, str]:
    """The ``uuid``, ``task``, ``src`` and ``options.feedback_channel``.

    Those that are texts and stand near the beginning or the end.

    :param is_cut: its end is missing
    """
    found = _pick(_scan(body[:_BEGIN], 0)[0], 0)
    for end, start in () if is_cut else _ends(body):
        texts, depth, is_whole = _scan(end, start)
        if is_whole and end.endswith(b"}"):
            # All is closed there, which tells how deep the others are.
            found.update(_pick(texts, -depth))
            break
    return found


def _ends(body: bytes) -> Iterator[Tuple[bytes, int]]:
    """Ends of it, and where they can be read from."""
    for size in _ENDS:
        end = body[-size:].rstrip()
        yield end, 0
        # It may begin within a string.
        rest = _REST_OF_STRING.match(end)
        if rest:
            yield end, rest.end()


def _scan(part: bytes, start: int) -> Tuple[List[_Found], int, bool]:
    """The named texts, the depth at the end, and whether all was read."""
    found: List[_Found] = []
    within: List[Optional[bytes]] = []
    depth = 0
    name: Optional[bytes] = None  # of the value that comes next
    last: Optional[bytes] = None  # the string before
    tokens = _TOKEN.finditer(part, start)
    for token in itertools.islice(tokens, _MOST):
        kind, text = token.lastgroup, token.group()
        if kind == "no":
            return found, depth, False
        if kind == "between":
            name = last if text.strip() == b":" else None
        elif kind == "string":
            if name is not None:
                around = within[-1] if within else None
                found.append((depth, around, name, text))
        elif kind == "open":
            depth += len(text)
            within += [name, *[None] * (len(text) - 1)]
        else:
            depth -= len(text)
            del within[-len(text) :]
        last = text if kind == "string" else None
        if kind != "between":
            name = None
    return found, depth, next(tokens, None) is None


def _pick(found: List[_Found], shift: int) -> Dict[str, str]:
    picked: Dict[str, str] = {}
    for depth, around, name, text in found:
        place = (depth + shift, around if depth + shift == 2 else None, name)
        if place in _PLACES:
            try:
                picked[_PLACES[place]] = json.loads(text)
            except ValueError:
                pass
    return picked
