"""What the last --nodes, --tasks and --jobs have shown, for completion.

It is a small file in the user's cache.  Nothing in it is trusted, and nothing
depends on it: where it is missing, damaged or cannot be written, Tab proposes
less.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Dict, Iterable, Iterator, List, Mapping

FILE = "ngcp-invoke-task.json"
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_OPTION = re.compile(rf"{_WORD.pattern}={_WORD.pattern}")
#: What the file can hold: ``options`` of a destination, such as ``role=lb``.
KINDS = {"nodes": _WORD, "options": _OPTION, "tasks": _WORD, "jobs": _WORD}
_MOST = 5000  # words of a kind
_LARGEST = 8 << 20  # bytes

Seen = Dict[str, List[str]]


def load() -> Seen:
    """Return the words in the file that can be names; never fails.

    :returns: a list for each of ``KINDS``
    """
    with contextlib.suppress(Exception), _folder() as folder:
        return _load(folder)
    return _checked({})


def save(seen: Mapping[str, Iterable[str]]) -> None:
    """Replace some kinds in the file; never fails.  Blocks.

    :param seen: words that strangers may have chosen
    """
    with contextlib.suppress(Exception), _folder() as folder:
        content = json.dumps(_checked({**_load(folder), **seen}))
        # Another process may write at the same time.
        name = f"{FILE}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            file = os.open(name, flags, 0o600, dir_fd=folder)
            with open(file, "w") as writer:
                writer.write(content)
            os.replace(name, FILE, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise


@contextlib.contextmanager
def _folder() -> Iterator[int]:
    """Open the user's own cache; make it if there is none.

    :raises OSError: also where it is another user's, as with some ways to
        become root: its owner may not choose what root writes, nor lose a file
        to root
    """
    path = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(path):
        path = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(path):
        raise OSError("this user has no home")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            raise PermissionError(path)
        yield folder
    finally:
        os.close(folder)


def _load(folder: int) -> Seen:
    content = b""

    def opener(name: str, flags: int) -> int:
        # A pipe must not wait for its writer.
        flags |= os.O_NONBLOCK | os.O_NOFOLLOW
        return os.open(name, flags, dir_fd=folder)

    with contextlib.suppress(OSError):
        with open(FILE, "rb", opener=opener) as reader:
            content = reader.read(_LARGEST)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    return _checked(found if isinstance(found, dict) else {})


def _checked(seen: Mapping[str, object]) -> Seen:
    """Return what is as it should be, for each kind."""
    kinds: Seen = {}
    for kind, form in KINDS.items():
        words = seen.get(kind)
        kinds[kind] = [
            word
            for word in (words if isinstance(words, list) else [])[:_MOST]
            if isinstance(word, str) and form.fullmatch(word)
        ]
    return kinds
