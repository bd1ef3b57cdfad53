"""Lines: text of strangers in one printable line, so that it forges none."""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    """Escape what is not printable, such as newlines, as repr() does."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in text
    )


def cut(text: str, longest: int) -> str:
    """Return the start of a text that has at most so many bytes of UTF-8."""
    if len(text) <= longest and text.isascii():
        return text
    start = text[:longest].encode(errors="backslashreplace")
    return start[:longest].decode(errors="ignore")


#: Bytes of a record.  A full journal queue, 512 records as systemd sets it,
#: must fit in the send buffer of libsystemd's socket; see JournalWriter.
LONGEST = 16384


def one_line(text: str) -> str:
    """Return the start of a text in one printable line."""
    return cut(printable(text[:LONGEST]), LONGEST)


class OneLine(logging.Formatter):
    """Formats a record as one printable line, then those of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record)[:LONGEST])

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record)[:LONGEST].split("\n")
        return cut("\n".join(map(printable, lines)), LONGEST)
