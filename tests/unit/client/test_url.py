"""URLs of Redis servers, and what is wrong with one."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from ngcp_task_agent.client import NoAddress, parse_url

URLS: Any = [
    ("redis://h", {"host": "h"}),
    ("redis://", {"host": "127.0.0.1"}),
    ("redis://h:7/3", {"host": "h", "port": 7}),
    ("redis://:p%40w@h", {"host": "h", "password": "p@w"}),
    ("redis://u:p@h/", {"host": "h", "username": "u", "password": "p"}),
    ("redis://[::1]:7", {"host": "::1", "port": 7}),
    ("rediss://h", {"host": "h", "tls": {}}),
    ("rediss://h?ca=/a.pem", {"host": "h", "tls": {"ca": "/a.pem"}}),
    ("unix:///run/r.sock", {"unix_socket": "/run/r.sock"}),
    ("unix://:p@/r?db=1", {"unix_socket": "/r", "password": "p"}),
]


@pytest.mark.parametrize(("url", "options"), URLS)
def test_url(url: str, options: Dict[str, Any]) -> None:
    assert parse_url(url) == options


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "begin with"),
        ("localhost:6379", "begin with"),
        ("http://h", "begin with"),
        ("redis:/h", "a slash is missing: redis://"),
        ("rediss:/:secret@h", "a slash is missing: rediss://"),
        ("redis:6379", "a slash is missing"),
        ("redis://:secret@h:x", "URL"),
        ("redis://:secret@h:99999", "URL"),
        ("redis://:secret@h:0", "port"),
        ("redis://:secret@h/name", "DATABASE"),
        ("rediss://h?x=1", "only ca, cert, key may follow"),
        ("redis://h#1", "nothing may follow"),
        ("redis://:secret\u2100@h", "the server's name is not valid"),
        ("redis://:secret@h?x=1", "nothing may follow"),
        ("redis://:secret@[::1", "URL"),
        ("redis://:secret/x@h", "%2F"),
        ("redis://:6/secret@h", "%2F"),
        ("redis://:x?secret=1@h", "%2F"),
        ("redis://:x#secret@h", "%2F"),
        ("redis://h?secret=@x", "%2F"),
        ("redis://:x@y]secret@h", "URL"),
        ("unix://host/path", "absolute"),
        ("unix://", "absolute"),
    ],
)
def test_bad_url(url: str, reason: str) -> None:
    with pytest.raises(NoAddress, match=reason) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
