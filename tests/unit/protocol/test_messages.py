"""Requests and responses: every rule of the fields, chunks, limits."""

from __future__ import annotations

import json
import sys
import time
import uuid
from datetime import datetime
from typing import Any, Callable, Dict, List

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ngcp_task_agent.protocol.messages import (
    MAX_DEPTH,
    MAX_NESTED,
    Malformed,
    Origin,
    Request,
    Response,
    new_uuid,
    parse_request,
)
from tests.unit.fakes import body, message

LIMIT = 1 << 20
UUID = "cb88ac76-f348-4614-866f-43877b893e7e"


def refused(what: bytes, limit: int = LIMIT) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse_request(what, limit)
    assert str(caught.value)
    return caught.value


def test_reads_every_field() -> None:
    before = time.time()
    text = body(
        uuid=UUID,
        task="ping_10_10_10_10",
        src="sp1",
        dst="sp1",
        options={"feedback_channel": "fb_ctrl_7056", "unknown": 1},
        data={"extra_args": "a b"},
        timestamp=1.0,
        datetime="yesterday",
        unknown=["x"],
    )
    request = parse_request(text, LIMIT)
    assert request.uuid == UUID
    assert request.task == "ping_10_10_10_10"
    assert (request.src, request.dst) == ("sp1", "sp1")
    assert request.options["feedback_channel"] == "fb_ctrl_7056"
    assert request.data == {"extra_args": "a b"}
    assert request.size == len(text)
    assert request.origin == Origin(UUID, "ping_10_10_10_10", "sp1")
    # A client's own time is overwritten.
    assert before <= request.timestamp <= time.time()
    received = datetime.fromisoformat(request.datetime)
    assert received.timestamp() == pytest.approx(request.timestamp)
    assert received.tzinfo is not None


def test_data_is_optional() -> None:
    fields = message()
    del fields["data"]
    assert parse_request(json.dumps(fields).encode(), LIMIT).data is None


SOUND = [
    pytest.param({"uuid": UUID.upper()}, id="uuid-in-upper-case"),
    pytest.param({"task": "x" * 128}, id="longest-task"),
    pytest.param({"src": "x" * 255}, id="longest-src"),
    pytest.param({"src": "\U0001f600" * 255}, id="length-is-in-characters"),
    pytest.param({"dst": "x" * 4096}, id="longest-dst"),
    pytest.param({"task": " x "}, id="spaces"),
    pytest.param({"options": {}}, id="no-options"),
    pytest.param({"data": [1, {"a": None}]}, id="data-of-any-kind"),
    pytest.param({"data": "\0\ud800"}, id="data-with-anything-in-it"),
]


@pytest.mark.parametrize("fields", SOUND)
def test_accepts(fields: Dict[str, Any]) -> None:
    request = parse_request(body(**fields), LIMIT)
    for name, value in fields.items():
        assert getattr(request, name) == value


FAULTS = [
    pytest.param({"uuid": None}, "uuid", id="no-uuid"),
    pytest.param({"uuid": 7}, "uuid", id="uuid-a-number"),
    pytest.param({"uuid": ""}, "uuid", id="uuid-empty"),
    pytest.param({"uuid": "cb88ac76"}, "uuid", id="uuid-short"),
    pytest.param({"uuid": UUID.replace("-", "")}, "uuid", id="no-hyphens"),
    pytest.param({"uuid": f"{{{UUID}}}"}, "uuid", id="uuid-in-braces"),
    pytest.param({"uuid": f"{UUID}\n"}, "uuid", id="uuid-line-feed"),
    pytest.param({"uuid": "g" + UUID[1:]}, "uuid", id="uuid-not-hex"),
    pytest.param({"uuid": "\u0661" + UUID[1:]}, "uuid", id="uuid-not-ascii"),
    pytest.param({"task": None}, "task", id="no-task"),
    pytest.param({"task": ""}, "task", id="task-empty"),
    pytest.param({"task": "x" * 129}, "task", id="task-long"),
    pytest.param({"task": ["ping"]}, "task", id="task-a-list"),
    pytest.param({"task": "a\0b"}, "task", id="task-nul"),
    pytest.param({"task": "\ud800"}, "task", id="task-half-a-pair"),
    pytest.param({"src": None}, "src", id="no-src"),
    pytest.param({"src": ""}, "src", id="src-empty"),
    pytest.param({"src": "x" * 256}, "src", id="src-long"),
    pytest.param({"src": {}}, "src", id="src-an-object"),
    pytest.param({"src": "\0"}, "src", id="src-nul"),
    pytest.param({"dst": None}, "dst", id="no-dst"),
    pytest.param({"dst": ""}, "dst", id="dst-empty"),
    pytest.param({"dst": "x" * 4097}, "dst", id="dst-long"),
    pytest.param({"dst": ["sp1"]}, "dst", id="dst-a-list"),
    pytest.param({"dst": "\udfff"}, "dst", id="dst-half-a-pair"),
    pytest.param({"options": None}, "options", id="no-options"),
    pytest.param({"options": "x"}, "options", id="options-a-string"),
    pytest.param({"options": []}, "options", id="options-a-list"),
]


@pytest.mark.parametrize(("fields", "named"), FAULTS)
def test_refuses_and_names_the_field(
    fields: Dict[str, Any], named: str
) -> None:
    fault = refused(body(**fields))
    assert str(fault).split()[0] == named
    # The valid fields are in the answer, and the answer has an address.
    if named != "options":
        assert fault.options == {"feedback_channel": "feedback"}
    if "task" not in fields:
        assert fault.origin.task == "ping"


@pytest.mark.parametrize("name", ["uuid", "task", "src", "dst", "options"])
def test_refuses_a_request_without(name: str) -> None:
    fields = message()
    del fields[name]
    fault = refused(json.dumps(fields).encode())
    assert str(fault).startswith(f"{name} must be")


def test_the_first_of_several_faults_is_named() -> None:
    fault = refused(body(task=1, src=1, dst=1, options=1))
    assert str(fault).startswith("task ")
    fault = refused(body(uuid=1, task=1))
    assert str(fault).startswith("uuid ")


def test_ref_repeats_even_an_invalid_uuid() -> None:
    assert refused(body(uuid="seven")).origin.uuid == "seven"
    assert refused(body(uuid=7)).origin.uuid is None
    assert refused(body(uuid="x" * 10_000)).origin.uuid is None
    assert refused(body(uuid="\ud800")).origin.uuid is None


def nested(levels: int) -> bytes:
    """Return a message whose innermost list is this many levels deep."""
    inner = levels - 1
    deep = "[" * inner + "]" * inner
    return body(data="@").replace(b'"@"', deep.encode())


NO_MESSAGE = [
    pytest.param(b"", "not JSON", id="nothing"),
    pytest.param(b"hello", "not JSON", id="text"),
    pytest.param(b'{"uuid":', "not JSON", id="half"),
    pytest.param(b"{}{}", "not JSON", id="two"),
    pytest.param(b"{'uuid': 'x'}", "not JSON", id="single-quotes"),
    pytest.param(b"[]", "not a JSON object", id="list"),
    pytest.param(b'"x"', "not a JSON object", id="string"),
    pytest.param(b"null", "not a JSON object", id="null"),
    pytest.param(b"\xff\xfe", "not UTF-8", id="not-utf-8"),
    pytest.param(body().decode().encode("utf-16"), "UTF-8", id="utf-16"),
    pytest.param(b'{"a": NaN}', "not JSON", id="nan"),
    pytest.param(b'{"a": -Infinity}', "not JSON", id="infinity"),
    pytest.param(b'{"a": 1e999}', "not JSON", id="number-without-bounds"),
    *(
        pytest.param(b'{%b "a": %b}' % (b" " * spaces, number), "not JSON")
        for number in (b"1e999", b"1.5E+0000309", b"9" * 210 + b"e99")
        for spaces in (0, 5000)
    ),
    pytest.param(b'{"a": "\x01"}', "not JSON", id="control-character"),
    pytest.param(b"\xef\xbb\xbf{}", "not JSON", id="byte-order-mark"),
    pytest.param(nested(MAX_DEPTH + 1), "deep", id="too-deep"),
    pytest.param(nested(40_000), "deep", id="deeper-than-python-goes"),
]


@pytest.mark.parametrize(("what", "reason"), NO_MESSAGE)
def test_refuses_anything_else(what: bytes, reason: str) -> None:
    assert reason in str(refused(what))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["[", "{"])
def test_refuses_endless_brackets(opening: bytes) -> None:
    reason = str(refused(opening * 40_000))
    # How deep Python's parser goes depends on its version and the stack.
    # Beyond that, it does not notice that the end is missing.
    assert "deep" in reason or "not JSON" in reason


def test_accepts_the_maximum_depth() -> None:
    assert parse_request(nested(MAX_DEPTH), LIMIT).data
    # Many brackets are not necessarily deep.
    many = body(data=[[{}]] * 1000)
    assert parse_request(many, LIMIT).data == [[{}]] * 1000


def test_refuses_too_many_arrays_and_objects() -> None:
    many = body(data=[[]] * (MAX_NESTED - 3))
    assert parse_request(many, LIMIT).data
    fault = refused(body(data=[{}] * MAX_NESTED))
    assert f"more than {MAX_NESTED} arrays and objects" in str(fault)
    # The sender can still be read, and where the answer should go.
    assert fault.origin.uuid
    assert fault.options["feedback_channel"]


def test_limit_counts_the_bytes_of_the_message() -> None:
    text = body()
    assert parse_request(text, len(text)).size == len(text)
    fault = refused(text, len(text) - 1)
    assert f"{len(text)} bytes" in str(fault)
    assert f"limit is {len(text) - 1}" in str(fault)


@pytest.mark.parametrize("spaces", [0, 5000])
@pytest.mark.parametrize("data", [1e308, -1.5e-320, "1e999", "9" * 300, 0.0])
def test_numbers_and_what_looks_like_one(data: Any, spaces: int) -> None:
    text = body(data=data) + b" " * spaces
    assert parse_request(text, LIMIT).data == data


def test_an_integer_of_too_many_digits() -> None:
    longest = body(data=0).replace(b"0}", b"9" * 4300 + b"}")
    assert parse_request(longest, LIMIT).data > 10**4299
    longer = longest.replace(b"999}", b"9999}")
    if hasattr(sys, "get_int_max_str_digits"):
        fault = refused(longer)
        assert str(fault) == "the message has a number of over 4300 digits"
        assert fault.options["feedback_channel"]
    else:
        # Python versions without the limit accept it.
        assert parse_request(longer, LIMIT).data > 10**4300


OWN: Dict[str, Any] = {
    "uuid": "u",
    "task": 'a "quoted" task \\',
    "src": "caf\u00e9",
    "options": {"feedback_channel": "fb"},
}
INNER = {
    **dict.fromkeys(("uuid", "task", "src", "feedback_channel"), "inner"),
    "options": {"feedback_channel": "inner"},
}

BROKEN = [
    pytest.param(lambda text: text[:-1], id="cut"),
    pytest.param(lambda text: text + b"x", id="one-more"),
    pytest.param(lambda text: text + b"\xff", id="not-utf-8"),
    pytest.param(lambda text: text + b"x" * 300_000, id="too-long"),
    pytest.param(lambda text: b"\xef\xbb\xbf" + text, id="byte-order-mark"),
    pytest.param(lambda text: text[:-1] + b', "x": 1e999}', id="number"),
    pytest.param(
        lambda text: text[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        id="deep",
    ),
    pytest.param(
        lambda text: text[:-1] + b',"x":' + b"[" * 60_000 + b"}",
        id="many-brackets",
    ),
]
DATA: List[Any] = [
    pytest.param(None, id="none"),
    pytest.param(INNER, id="fields"),
    pytest.param([INNER, [INNER]], id="in-a-list"),
    pytest.param(json.dumps(INNER), id="in-a-text"),
    pytest.param({"x": '\\"' * 1000, **INNER}, id="behind-quotes"),
    pytest.param([["a"]] * 50, id="lists"),
    pytest.param({"a": 1.5e-7, "b": [None, True]}, id="values"),
    pytest.param(float("nan"), id="nan"),
]


def check_own_fields(fault: Malformed) -> None:
    assert fault.origin == Origin(OWN["uuid"], OWN["task"], OWN["src"])
    assert fault.options == OWN["options"]


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("spoil", BROKEN)
def test_an_unreadable_message_is_answered(
    spoil: Callable[[bytes], bytes], data: Any, place: int
) -> None:
    items = list(OWN.items())
    items.insert(place, ("data", data))
    for indent in (None, 4):
        text = json.dumps(dict(items), indent=indent)
        check_own_fields(refused(spoil(text.encode()), 200_000))


@pytest.mark.parametrize("data", DATA)
def test_an_answer_goes_where_the_request_says_not_its_data(data: Any) -> None:
    """Wherever the message is cut off."""
    text = json.dumps({"data": data, **OWN}).encode()
    for length in range(0, len(text), len(text) // 300 + 1):
        fault = refused(text[:length])
        assert fault.origin.uuid in (None, OWN["uuid"])
        assert fault.origin.task in (None, OWN["task"])
        assert fault.origin.src in (None, OWN["src"])
        assert fault.options in ({}, OWN["options"])


def test_an_unreadable_message_without_a_channel_has_no_address() -> None:
    fault = refused(b'{"uuid": "x", "task": 5, "src": "\\ud800"')
    assert fault.origin == Origin("x", None, None)
    assert fault.options == {}


@pytest.mark.parametrize(
    "part",
    [b'{"uuid" ', b'{"uuid":"', b'{"src":"\\"', b'{"task"' + b" " * 99]
    + [b"{" * 99, b'{"a":1' + b"," * 99, b'{"a":[[' * 20, b'{"a":1,'],
)
def test_an_unreadable_message_takes_little_time(part: bytes) -> None:
    """A megabyte that looks like fields, or never ends."""
    text = part * (1_000_000 // len(part))
    begin = time.perf_counter()
    refused(text, 1000)
    assert time.perf_counter() - begin < 5


@given(st.binary(max_size=200))
@example(b'{"uuid":"\\')
@example(b"\x00\x00\x00{")
def test_any_bytes_are_a_request_or_malformed(what: bytes) -> None:
    try:
        request = parse_request(what, 100)
    except Malformed as fault:
        Response(fault.origin, "n", "rejected", str(fault)).encode(LIMIT)
        return
    assert isinstance(request, Request)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(message(), json_values),
    )
)
def test_any_fields_are_a_request_or_malformed(fields: Dict[str, Any]) -> None:
    what = json.dumps({**message(), **fields}).encode()
    try:
        request = parse_request(what, LIMIT)
    except Malformed as fault:
        encoded = Response(fault.origin, "n", "rejected", str(fault)).encode(
            LIMIT
        )
        assert json.loads(encoded[0])["status"] == "rejected"
        return
    assert 1 <= len(request.task) <= 128
    assert 1 <= len(request.src) <= 255
    assert 1 <= len(request.dst) <= 4096
    assert uuid.UUID(request.uuid)
    assert isinstance(request.options, dict)


@given(json_values, st.integers(0, 4), st.booleans())
def test_any_data_of_an_unreadable_message(
    data: Any, place: int, is_ascii: bool
) -> None:
    items = list(OWN.items())
    items.insert(place, ("data", data))
    text = json.dumps(dict(items), ensure_ascii=is_ascii) + "x"
    check_own_fields(refused(text.encode("utf-8", "surrogatepass")))


ORIGIN = Origin(UUID, "ping", "client")
FIELDS = (
    "uuid ref task src dst timestamp datetime chunk chunks status reason data"
).split()


def encoded(response: Response, limit: int = LIMIT) -> List[Dict[str, Any]]:
    return [json.loads(m.decode()) for m in response.encode(limit)]


def test_response_has_every_field() -> None:
    before = time.time()
    (got,) = encoded(Response(ORIGIN, "sp1", "done", "", "out\n"))
    assert list(got) == FIELDS
    assert uuid.UUID(got["uuid"]) != uuid.UUID(UUID)
    assert got["ref"] == UUID
    assert (got["task"], got["src"], got["dst"]) == ("ping", "sp1", "client")
    assert before <= got["timestamp"] <= time.time()
    sent = datetime.fromisoformat(got["datetime"])
    assert sent.timestamp() == pytest.approx(got["timestamp"])
    assert sent.tzinfo is not None
    assert (got["chunk"], got["chunks"]) == (1, 1)
    assert (got["status"], got["reason"]) == ("done", "")
    assert got["data"] == "out\n"


@pytest.mark.parametrize("status", ["accepted", "rejected"])
def test_response_without_data(status: str) -> None:
    (got,) = encoded(Response(ORIGIN, "sp1", status, "why"))
    assert list(got) == FIELDS
    assert got["data"] is None
    assert got["reason"] == "why"


def test_response_to_an_unreadable_message() -> None:
    (got,) = encoded(Response(Origin(), "sp1", "rejected", "why"))
    assert (got["ref"], got["task"], got["dst"]) == (None, None, None)


def test_no_output_is_an_empty_string() -> None:
    (got,) = encoded(Response(ORIGIN, "sp1", "done", "", ""))
    assert got["data"] == ""


def test_every_response_has_its_own_uuid() -> None:
    responses = [Response(ORIGIN, "sp1", "accepted") for _ in range(10)]
    assert len({response.uuid for response in responses}) == 10


def test_reason_is_bounded() -> None:
    (got,) = encoded(Response(ORIGIN, "n", "error", "\U0001f600" * 5000, ""))
    assert len(got["reason"]) == 1000


def test_response_is_utf_8() -> None:
    (raw,) = Response(
        ORIGIN, "n", "done", "", "\u00e4\u20ac\U0001f600"
    ).encode(LIMIT)
    assert "\u00e4\u20ac\U0001f600".encode() in raw


@pytest.mark.parametrize("shift", range(4))
def test_data_in_bytes(shift: int) -> None:
    # Characters of one to four bytes, also across the edges of blocks.
    data = b"-" * shift + "a\u00e4\u20ac\U0001f600".encode() * 20_000
    data += b"\xff\xf0\x9f"
    response = Response(Origin(UUID), "sp1", "done", data=data)
    (message,) = response.encode(1 << 20)
    assert json.loads(message)["data"] == data.decode(errors="replace")


def test_large_data_is_split_in_order() -> None:
    text = "".join(f"line {n}\n" for n in range(5000))
    response = Response(ORIGIN, "sp1", "done", "", text)
    got = encoded(response, 16384)
    assert len(got) > 1
    assert [g["chunk"] for g in got] == list(range(1, len(got) + 1))
    assert {g["chunks"] for g in got} == {len(got)}
    assert "".join(g["data"] for g in got) == text
    same = [
        {k: g[k] for k in FIELDS if k not in ("chunk", "data")} for g in got
    ]
    assert all(g == same[0] for g in same)


@pytest.mark.parametrize("size", [1, 100_000])
def test_every_chunk_says_that_data_was_for_nothing(size: int) -> None:
    text = "x" * size
    response = Response(ORIGIN, "sp1", "done", "", text, unused=True)
    got = encoded(response, 16384)
    assert [g["unused"] for g in got] == [True] * len(got)
    assert "".join(g["data"] for g in got) == text


# Characters that must not be cut in their bytes.
letters = st.sampled_from(
    ["a", "\\", '"', "\n", "\0", "\x1f", "\u00e4", "\u20ac", "\U0001f600"]
)


@given(
    st.text() | st.text(letters, max_size=300),
    st.integers(min_value=400, max_value=900),
    st.sampled_from(["", "why", "\u20ac" * 10]),
)
@example("\\" * 200, 401, "")
@example("\0" * 100, 402, "")
@example("a" + "\\" * 201, 400, "")
@example("\\u1234" * 50, 404, "")
@example("\U0001f600" * 100, 403, "")
@example("x" * 65535 + "\\\\", 500, "")
def test_chunks_join_to_the_same_text(
    text: str, limit: int, reason: str
) -> None:
    messages = Response(ORIGIN, "sp1", "error", reason, text).encode(limit)
    got = [json.loads(message.decode()) for message in messages]
    assert "".join(g["data"] for g in got) == text
    assert all(len(message) <= limit for message in messages)
    assert {g["chunks"] for g in got} == {len(got)}
    assert {g["reason"] for g in got} == {reason}


def test_the_largest_fields_fit_in_the_smallest_limit() -> None:
    wide = "\U0001f600"
    origin = Origin("x" * 128, wide * 128, wide * 255)
    reason = "\0" * 1000
    response = Response(origin, wide * 100, "error", reason, "\0" * 50_000)
    messages = response.encode(16384)
    assert all(len(message) <= 16384 for message in messages)
    parts = [json.loads(message)["data"] for message in messages]
    assert "".join(parts) == "\0" * 50_000


def test_data_that_fits_is_not_split() -> None:
    text = "x" * 1000
    (whole,) = Response(ORIGIN, "sp1", "done", "", text).encode(LIMIT)
    # The reserve for the numbers of chunks is small.
    assert (
        len(
            encoded(Response(ORIGIN, "sp1", "done", "", text), len(whole) + 80)
        )
        == 1
    )


def test_half_a_surrogate_pair_is_replaced() -> None:
    """Any output of a plugin can be sent."""
    (got,) = encoded(Response(ORIGIN, "sp1", "error", "\ud800x", "\udfffy"))
    assert (got["reason"], got["data"]) == ("?x", "?y")


def test_uuids_are_random() -> None:
    made = {new_uuid() for _ in range(1000)}
    assert len(made) == 1000
    for text in made:
        found = uuid.UUID(text)
        assert (str(found), found.version) == (text, 4)
        assert found.variant == uuid.RFC_4122
