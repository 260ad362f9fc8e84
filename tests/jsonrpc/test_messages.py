from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.jsonrpc.messages import MalformedMessage, decode, encode_error, encode_request, encode_result

IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(identity=IDS, method=st.text(max_size=20), params=JSON)
def test_a_request_survives_the_wire(identity: int | str, method: str, params: object) -> None:
    message = decode(encode_request(identity, method, params))
    assert (message.id, message.method) == (identity, method)
    assert json.loads(bytes(message.params)) == params


@given(identity=IDS, result=JSON)
def test_a_result_survives_the_wire(identity: int | str, result: object) -> None:
    message = decode(encode_result(identity, json.dumps(result).encode()))
    assert message.id == identity
    assert message.method is msgspec.UNSET
    assert json.loads(bytes(message.result)) == result


def test_an_error_carries_code_and_message() -> None:
    message = decode(encode_error(-1, -32600, "ünsaid"))
    failure = message.failure()
    assert failure is not None
    assert (message.id, failure.code, failure.message) == (-1, -32600, "ünsaid")


@given(data=JSON)
def test_an_error_may_say_more(data: object) -> None:
    text = json.dumps({"id": 1, "error": {"code": 7, "message": "m", "data": data}})
    message = decode(text.encode())
    failure = message.failure()
    assert failure is not None
    assert json.loads(bytes(failure.data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        decode(data)
    except MalformedMessage as error:
        assert error.message


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"id":1}', '{"id":null,"method":"x"}', '{"id":true,"method":"x"}']
)
def test_hostile_messages_are_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage):
        decode(text.encode())
