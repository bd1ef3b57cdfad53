"""Times on the command line, in the simple forms that journalctl takes."""

from __future__ import annotations

import datetime
import re

_UNITS = {
    ("s", "sec", "second", "seconds"): 1,
    ("m", "min", "minute", "minutes"): 60,
    ("h", "hr", "hour", "hours"): 3600,
    ("d", "day", "days"): 86400,
    ("w", "week", "weeks"): 7 * 86400,
}
_SECONDS = {name: value for names, value in _UNITS.items() for name in names}
_SPAN = re.compile(r"([0-9]{1,9})(?![0-9])\s*([a-z]*)\s*", re.ASCII)
_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S")
_CLOCKS = ("%H:%M", "%H:%M:%S")

FORMS = (
    "-1h, '1h 30min ago', today, yesterday, 10:00, 2026-11-27 or "
    "'2026-11-27 10:00'"
)


def parse(text: str, now: float) -> float:
    """Return a unix time, in seconds.

    :param now: a unix time
    :raises ValueError: saying what can be written
    """
    today = datetime.datetime.fromtimestamp(now).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    words = {
        "now": lambda: now,
        "today": today.timestamp,
        "yesterday": (today - datetime.timedelta(days=1)).timestamp,
    }
    try:
        if text in words:
            return words[text]()
        if text.startswith("-"):
            return now - _span(text[1:])
        if text.endswith(" ago"):
            return now - _span(text[:-4])
        if text.startswith("@"):
            return float(int(text[1:]))
        return _moment(text.replace("T", " "), today).timestamp()
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"'{text}' is not a time such as {FORMS}") from None


def _span(text: str) -> float:
    """Return seconds.

    :raises ValueError: or KeyError
    """
    total, end = 0, 0
    text = text.strip()
    while end < len(text) or not text:
        part = _SPAN.match(text, end)
        if not part:
            raise ValueError(text)
        total += int(part[1]) * _SECONDS[part[2] or "s"]
        end = part.end()
    return float(total)


def _moment(text: str, today: datetime.datetime) -> datetime.datetime:
    for form in _CLOCKS:
        try:
            clock = datetime.datetime.strptime(text, form).time()
        except ValueError:
            continue
        return datetime.datetime.combine(today, clock)
    for form in _FORMATS[:-1]:
        try:
            return datetime.datetime.strptime(text, form)
        except ValueError:
            pass
    return datetime.datetime.strptime(text, _FORMATS[-1])
