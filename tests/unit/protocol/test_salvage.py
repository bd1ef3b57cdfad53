"""What can be told of a message that cannot be read."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngcp_task_agent.protocol.salvage import salvage

FIELDS: Dict[str, Any] = {
    "uuid": "u",
    "task": "t",
    "src": 's "quoted" \\',
    "options": {"feedback_channel": "fb"},
}
FOUND = {
    "uuid": "u",
    "task": "t",
    "src": 's "quoted" \\',
    "feedback_channel": "fb",
}
INNER = {
    **dict.fromkeys(("uuid", "task", "src", "feedback_channel"), "inner"),
    "options": {"feedback_channel": "inner"},
}
DATA: List[Any] = [
    pytest.param(INNER, id="fields"),
    pytest.param([INNER, [INNER]], id="in-a-list"),
    pytest.param(json.dumps(INNER), id="in-a-text"),
    pytest.param({"x": "y" * 100_000, **INNER}, id="behind-much"),
    pytest.param({**INNER, "x": "y" * 100_000}, id="before-much"),
    pytest.param({"x": '\\"' * 100_000, **INNER}, id="behind-quotes"),
    pytest.param([["a"]] * 50_000, id="lists"),
    pytest.param({"a": 1.5e-7, "b": [None, True]}, id="values"),
]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("is_first", [True, False])
def test_the_requests_own_fields_only(data: Any, is_first: bool) -> None:
    message = (
        {"data": data, **FIELDS} if is_first else {**FIELDS, "data": data}
    )
    for text in (json.dumps(message), json.dumps(message, indent=4) + "\n"):
        assert salvage(text.encode(), False) == FOUND


@pytest.mark.parametrize("data", DATA)
def test_of_what_is_cut_off_only_the_beginning(data: Any) -> None:
    message = json.dumps({"task": "t", "data": data, **FIELDS}).encode()
    for length in range(20, min(len(message), 400)):
        found = salvage(message[:length], True)
        assert found.items() <= FOUND.items()
        assert "task" in found


def test_what_is_no_text_is_none() -> None:
    message = {**FIELDS, "uuid": 5, "task": None, "src": {"src": "x"}}
    assert salvage(json.dumps(message).encode(), False) == {
        "feedback_channel": "fb"
    }


@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    assert all(isinstance(text, str) for text in salvage(body, False).values())


JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(sorted(INNER)) | st.text(), inner)
    ),
    max_leaves=20,
)


@given(JSON, st.integers(0, 5), st.booleans())
def test_any_data(data: Any, place: int, is_ascii: bool) -> None:
    items = list(FIELDS.items())
    items.insert(place, ("data", data))
    text = json.dumps(dict(items), ensure_ascii=is_ascii)
    body = text.encode("utf-8", "surrogatepass")
    assert salvage(body, False) == FOUND
    # However much comes before it.
    much = json.dumps({"data": ["z" * 9, data] * 3000, **FIELDS}).encode()
    assert salvage(much, False) == FOUND
