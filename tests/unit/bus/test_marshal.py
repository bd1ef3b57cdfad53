"""The bytes of messages: as dbus-fast makes them, but not in one go."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, List

import pytest

from ngcp_task_agent.bus import marshal as module
from ngcp_task_agent.bus.connection import Connection  # defers dbus_fast
from ngcp_task_agent.bus.marshal import marshalled

from dbus_fast.constants import MessageType  # isort: skip
from dbus_fast.message import Message  # isort: skip
from dbus_fast.signature import Variant  # isort: skip

assert Connection


def message(signature: str = "", *body: Any, **more: Any) -> Message:
    return Message(
        "com.example",
        "/com/example",
        "com.example",
        "X",
        signature=signature,
        body=list(body),
        serial=7,
        **more,
    )


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("", []),
        ("ybnqiuxtd", [255, True, -2, 3, -4, 5, -6, 2**64 - 1, 0.5]),
        ("sogs", ["text", "/a/b", "a{sv}", ""]),
        ("ayas", [b"bytes", ["a", "bcd", ""]]),
        ("axa(yx)", [[], []]),
        ("ya(yt)s", [1, [[1, 2], [3, 4]], "x"]),
        ("a{sv}", [{"k": Variant("as", ["v"]), "n": Variant("y", 1)}]),
        ("(a{st}a{sa{st}})", [[{"a": 1}, {"b": {"c": 2}, "d": {}}]]),
        ("va(sv)", [Variant("v", Variant("(st)", ["x", 9])), []]),
        ("aasaas", [[], [["a"], []]]),
    ],
)
async def test_it_is_what_dbus_fast_makes(
    signature: str, body: List[Any]
) -> None:
    made = message(signature, *body)
    assert await marshalled(made) == bytes(made._marshall(True))


async def test_the_header() -> None:
    for kind in MessageType:
        made = message(
            "h",
            0,
            unix_fds=[1],
            message_type=kind,
            reply_serial=9,
            error_name="com.example.Error",
        )
        assert await marshalled(made) == bytes(made._marshall(True))


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        *[("s", [None]), ("u", [-1]), ("u", ["x"]), ("as", [3])],
        *[("(ss)", [["x"]]), ("ss", ["x"]), ("y", [256]), ("v", ["x"])],
    ],
)
async def test_a_value_of_another_type(
    signature: str, body: List[Any]
) -> None:
    kinds = (AttributeError, TypeError, ValueError, struct.error)
    with pytest.raises(kinds):
        await marshalled(message(signature, *body))


async def test_others_get_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 0.0)
    rows = [[f"{number}", number] for number in range(100)]
    value = Variant("a(su)", rows)
    making = asyncio.ensure_future(marshalled(message("a{sv}", {"x": value})))
    turns = 0
    while not making.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= len(rows)
    assert await making == bytes(
        message("a{sv}", {"x": value})._marshall(True)
    )
