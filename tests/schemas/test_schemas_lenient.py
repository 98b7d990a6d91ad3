"""JSON that says clearly what it means is read, in other forms than the schema's too; nonsense stays refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Decoded, Malformed, decode, to_avro
from schemas.records import FailureEvent
from schemas.records.lenient import coerced
from schemas.topics import FAILURES

ID = {"tenant_id": "t", "execution_id": "e"}


def read(**fields: Any) -> FailureEvent:
    result = decode(FAILURES.name, orjson.dumps({**ID, **fields}))
    assert isinstance(result, Decoded), result
    assert isinstance(result.record, FailureEvent)
    return result.record


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"error": "boom"}, {"error": {"message": "boom"}}),
        ({"error": {"http_status": "429"}}, {"error": {"http_status": 429}}),
        ({"error": {"exit_code": "-9"}}, {"error": {"exit_code": -9}}),
        ({"error": {"cause_chain": ["why"]}}, {"error": {"cause_chain": [{"message": "why"}]}}),
        ({"error": {"causes": [{"class": "E"}]}}, {"error": {"cause_chain": [{"class": "E"}]}}),
        ({"error": {}, "exit_code": "137"}, {"error": {"exit_code": 137}}),
        ({"error": {"exit_code": 1}, "exit_code": 2}, {"error": {"exit_code": 1}}),
        ({"origin": "framework"}, {"origin": "runtime"}),
        ({"origin": "LLM"}, {"origin": "model"}),
        ({"tool_response": {"status_code": "429"}}, {"tool_response": {"status_code": 429}}),
        ({"tool_response": {"status_code": 429.0}}, {"tool_response": {"status_code": 429}}),
        ({"tool_response": {"retry_after": 30}}, {"tool_response": {"headers": {"retry-after": "30"}}}),
        ({"tool_response": {"headers": {"Retry-After": 1.5}}}, {"tool_response": {"headers": {"Retry-After": "1.5"}}}),
        ({"tool_response": {"headers": {"A": ["x", 1], "B": None}}}, {"tool_response": {"headers": {"A": "x, 1"}}}),
        (
            {"tool_response": {"error": {"message": "no", "code": 7}}},
            {"tool_response": {"error": "no", "body": {"error": {"message": "no", "code": 7}}}},
        ),
        ({"metrics": {"tokens": "5", "duration_s": "2.5"}}, {"metrics": {"tokens": 5, "duration_s": 2.5}}),
        ({"checkpoint": "step-3", "agent": "a"}, {"checkpoint": {"id": "step-3"}, "agent": {"id": "a"}}),
    ],
)
def test_a_slip_of_form_means_what_its_plain_form_means(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert read(**given) == read(**meant)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"tool_response": {"status_code": "4x9"}},
        {"tool_response": {"status_code": 429.5}},
        {"tool_response": {"status_code": "-1"}},
        {"tool_response": {"status_code": "99999999999"}},
        {"tool_response": {"status_code": True}},
        {"tool_response": {"headers": {"a": {"b": 1}}}},
        {"tool_response": "boom"},
        {"error": 7},
        {"error": {"message": 7}},
        {"metrics": {"tokens": "-5"}},
        {"metrics": {"duration_s": "nan"}},
        {"checkpoint": ""},
        {"checkpoint": "x" * 257},
    ],
)
def test_nonsense_stays_a_dead_letter(nonsense: dict[str, Any]) -> None:
    assert isinstance(decode(FAILURES.name, orjson.dumps({**ID, **nonsense})), Malformed)


def test_a_header_outranks_a_field_beside_it() -> None:
    response = read(tool_response={"headers": {"Retry-After": "5"}, "retry_after": 30}).tool_response
    assert response is not None
    assert dict(response.headers) == {"Retry-After": "5"}


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["429", "1e9", " 5 ", "-0", "²", "٣", "9" * 17])
)
_PARTS = ("error", "tool_response", "metrics", "execution", "checkpoint", "agent", "resumed_by")
_FIELDS = (
    *("message", "http_status", "exit_code", "code", "cause_chain", "status_code", "headers", "body", "error"),
    *("retry_after", "tokens", "duration_s", "timeout_s", "id", "attempt", "size_bytes"),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=5), below),
    max_leaves=12,
)
_DOCUMENTS = st.dictionaries(st.sampled_from(_PARTS), _VALUES)


@given(_DOCUMENTS)
def test_no_json_makes_it_raise_and_nothing_unbounded_comes_through(document: dict[str, Any]) -> None:
    """What is accepted is in the schema's bounds: it can be written as Avro, and is the same when read again."""
    once = coerced(document)
    assert coerced(once) == once
    result = decode(FAILURES.name, orjson.dumps({**ID, **document}))
    if isinstance(result, Decoded):
        again = decode(FAILURES.name, to_avro(result.record))
        assert isinstance(again, Decoded)
        assert again.record == result.record
