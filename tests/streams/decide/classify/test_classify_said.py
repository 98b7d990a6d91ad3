"""Numbers, limits and constraints that a message states in words reach the verdict and its remedies."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from classify_events import details, error, said
from hypothesis import given
from hypothesis import strategies as st

from streams.decide import Rates
from streams.decide.catalogue import shipped
from streams.decide.classify import classify
from streams.decide.classify.said import amount, constraint_said, overstepped
from streams.decide.options import options


@pytest.mark.parametrize(
    ("message", "verdict", "measured", "limit"),
    [
        ("Used 5000 tokens of 4000 allowed", "performance/token_limit_exceeded", 5000, 4000),
        (
            "Requested 12,000 tokens; the budget is 8k tokens, used 12,000",
            "performance/token_limit_exceeded",
            None,
            8000,
        ),
        (
            "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the "
            "messages, 1000 in the completion).",
            "performance/token_limit_exceeded",
            9000,
            8192,
        ),
        ("prompt is too long: 210000 tokens > 200000 maximum", "performance/token_limit_exceeded", 210000, 200000),
        ("Memory usage 3 GB exceeds limit 2 GB", "performance/out_of_memory", 3 << 30, 2 << 30),
        ("RSS 5 GiB over the 4 GiB cap", "performance/out_of_memory", 5 << 30, 4 << 30),
        ("Execution took 95 seconds, limit is 60 seconds", "performance/timeout", 95, 60),
    ],
)
def test_what_was_used_of_what_was_allowed(message: str, verdict: str, measured: float | None, limit: float) -> None:
    found = details(classify(error(message)))
    assert said(error(message)) == verdict
    assert found["limit"] == limit
    if measured is not None:
        assert found["measured"] == measured


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "APR 0 % is out of range [2.5, 8.5]",
            {"field": "APR", "actual_value": 0, "valid_range": {"min": 2.5, "max": 8.5}},
        ),
        (
            "1 validation error for Loan\napr\n  Input should be greater than or equal to 2.5 "
            "[type=greater_than_equal, input_value=0, input_type=int]",
            {"field": "apr", "actual_value": "0", "valid_range": {"min": 2.5}},
        ),
        (
            "1 validation error for Loan\nkind\n  Input should be 'A', 'B' or 'C' "
            "[type=literal_error, input_value='X', input_type=str]",
            {"field": "kind", "actual_value": "X", "allowed_values": ["A", "B", "C"]},
        ),
    ],
)
def test_a_validator_s_words_become_the_constraint(message: str, expected: dict[str, Any]) -> None:
    verdict = classify(error(message))
    assert verdict.category == "hallucination"
    assert expected.items() <= details(verdict).items()
    texts = [orjson.loads(option.parameters) for option in options(error(message), verdict, shipped(), Rates())]
    prompt = next(parameters["text"] for parameters in texts if "text" in parameters)
    assert str(expected["field"]) in prompt
    assert ("2.5" in prompt) or ('"A"' in prompt)


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("list index 5 is out of range", "logical_error/runtime_error"),
        ("Rate limit reached: used 29000 of 30000 tokens per min allowed", "tool_failure/rate_limit"),
        ("File size 30 MB exceeds limit 20 MB", "tool_failure/invalid_request"),
    ],
)
def test_amounts_of_something_else(message: str, verdict: str) -> None:
    assert said(error(message)) == verdict


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3 << 30, "bytes", "3.0 GiB"),
        (512, "bytes", "512 bytes"),
        (12000, "tokens", "12,000 tokens"),
        (0.5, "s", "0.5 s"),
    ],
)
def test_amounts_as_people_read_them(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


@given(
    st.text(alphabet="0123456789 .,-_/>kKgGmMbtokensxlimtouf[]()'\"=%\n", max_size=300),
    st.sampled_from(["token_limit_exceeded", "out_of_memory", "timeout", "loop"]),
)
def test_no_text_makes_it_raise(text: str, subtype: str) -> None:
    constraint_said(text)
    found = overstepped(text, subtype)
    assert found is None or found.measured is None or 0 < found.limit < found.measured
