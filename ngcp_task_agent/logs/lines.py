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
    start = text[:longest].encode(errors="backslashreplace")
    return start[:longest].decode(errors="ignore")


class OneLine(logging.Formatter):
    """Formats a record as one printable line, then those of its traceback."""

    #: Bytes of a record.  A full journal queue, 512 records as systemd sets
    #: it, must fit in the send buffer of libsystemd's socket; see
    #: JournalWriter.
    longest = 16384

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record)[: self.longest])

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record)[: self.longest].split("\n")
        return cut("\n".join(map(printable, lines)), self.longest)
