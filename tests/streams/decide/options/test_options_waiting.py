"""The time that a service asks us to wait, in the forms in which services say it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import NATURAL, Category, Classification, FailureEvent, Option, Strategy
from streams.decide import Rates
from streams.decide.catalogue import shipped
from streams.decide.classify import classify
from streams.decide.options import options
from streams.decide.options.durations import timeout_said_s
from streams.decide.options.waiting import asked

NOW = datetime(2026, 11, 23, 9, 0, 0, tzinfo=UTC)
RATE_LIMIT = Classification(category=Category.TOOL_FAILURE, subtype="rate_limit")


def failure(**fields: Any) -> FailureEvent:
    return FailureEvent.model_validate({"tenant_id": "t", "execution_id": "e", **fields}, context=NATURAL)


def answered(headers: dict[str, str] | None = None, **response: Any) -> FailureEvent:
    return failure(tool_response={"tool": "api", "headers": headers or {}, **response})


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "7"}, 7),
        ({"retry-after": " 7.5 "}, 7.5),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "Mon, 23 Nov 2026 09:00:30 GMT"}, 30),
        ({"Retry-After": "Mon, 23 Nov 2026 09:00:30 GMT", "Date": "Mon, 23 Nov 2026 09:00:20 GMT"}, 10),
        ({"Retry-After": "Mon, 23 Nov 2026 08:00:00 GMT"}, 0),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360),
        ({"x-ratelimit-reset-tokens": "174ms", "x-ratelimit-remaining-tokens": "0"}, 0.174),
        (
            {
                "x-ratelimit-reset-requests": "8h0m0s",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-tokens": "1.5s",
                "x-ratelimit-remaining-tokens": "0",
            },
            1.5,
        ),
        ({"X-RateLimit-Reset": "1795424460", "X-RateLimit-Remaining": "0"}, 60),
        ({"X-RateLimit-Reset": "1795424460000"}, 60),
        ({"RateLimit-Reset": "50"}, 50),
        ({"anthropic-ratelimit-requests-reset": "2026-11-23T09:00:05Z"}, 5),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "12"}, None),
        ({"x-rate-limit-reset": "1795424460", "x-rate-limit-remaining": "0"}, 60),
        ({"RateLimit": "limit=100, remaining=0, reset=30"}, 30),
        ({"RateLimit": '"default";r=0;t=30'}, 30),
        ({"X-Retry-After": "7"}, 7),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1_0"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Mon, 99 Nov 2026 09:00:30 GMT"}, None),
        ({"Retry-After": "0001-01-01T00:00:00+23:59"}, None),
        ({}, None),
    ],
)
def test_headers(headers: dict[str, str], wait_s: float | None) -> None:
    wait = asked(answered(headers), NOW).wait_s
    assert wait == (None if wait_s is None else pytest.approx(wait_s))


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("Rate limit reached for gpt-4.1: Limit 30000, Used 18928, Requested 11159. Please try again in 174ms.", 0.174),
        ("Please try again in 9.816s. Visit https://platform.openai.com", 9.816),
        ("Please try again in 1m30.5s.", 90.5),
        ("try again in 2 hours", 7200),
        ("Retry after 1 minute and 30 seconds.", 90),
        ("Please retry after 20 seconds.", 20),
        ("Please wait 20 seconds and call again", 20),
        ("The limit resets in 3 hours", 10800),
        ("Retry-After: 12", 12),
        ("{'error': {'details': [{'@type': 'RetryInfo', 'retryDelay': '34.07s'}]}}", 34.07),
        ("retry_after_ms=250", 0.25),
        ('{"retry_after_seconds": 20}', 20),
        ('{"retryAfterSeconds":20}', 20),
        ("Please try again later.", None),
        ("This endpoint is available in 3 regions", None),
        ("Max retries exceeded with url: /v1 (after 5 attempts)", None),
        ("payload429snippet", None),
        ("I waited", None),
    ],
)
def test_texts(text: str, wait_s: float | None) -> None:
    expected = None if wait_s is None else pytest.approx(wait_s)
    assert asked(failure(error={"message": text})).wait_s == expected
    assert asked(answered(error=text)).wait_s == expected


def test_bodies() -> None:
    gemini = {"error": {"code": 429, "details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "34s"}]}}
    assert asked(answered(body=gemini)).wait_s == 34
    assert asked(answered(body={"message": "You are being rate limited.", "retry_after": 0.5})).wait_s == 0.5


def test_a_date_without_any_reference_says_nothing() -> None:
    event = answered({"Retry-After": "Mon, 23 Nov 2026 09:00:30 GMT"})
    assert asked(event).wait_s is None
    assert asked(event.model_copy(update={"occurred_at": NOW})).wait_s == 30


@given(st.text(max_size=80), st.text(max_size=80))
def test_nothing_that_a_service_says_raises(header: str, text: str) -> None:
    event = answered({"Retry-After": header, "x-ratelimit-reset": text}, error=text, body=header)
    wait_s = asked(event, NOW).wait_s
    assert wait_s is None or 0 <= wait_s < float("inf")
    assert (timeout_said_s(text) or 0) >= 0


def ladder(event: FailureEvent, verdict: Classification = RATE_LIMIT) -> dict[Strategy, Option]:
    return {option.strategy: option for option in options(event, verdict, shipped(), Rates(), now=NOW)}


def test_what_was_asked_is_obeyed_with_jitter() -> None:
    backoff = ladder(answered({"Retry-After": "42"}))[Strategy.EXPONENTIAL_BACKOFF]
    made = orjson.loads(backoff.parameters)
    assert made["initial_delay_s"] == 42
    assert made["jitter"] > 0
    assert backoff.latency_s > 42


def test_above_the_cap_a_fallback_instead() -> None:
    offered = ladder(answered({"Retry-After": "121"}, fallbacks=["mirror"]))
    assert list(offered) == [Strategy.FALLBACK_SERVICE, Strategy.ASK_HUMAN]
    assert Strategy.EXPONENTIAL_BACKOFF in ladder(answered({"Retry-After": "120"}))


def test_a_service_that_wants_no_repeat_gets_none() -> None:
    assert list(ladder(answered({"X-Should-Retry": "false"}))) == [Strategy.ASK_HUMAN]
    assert Strategy.EXPONENTIAL_BACKOFF in ladder(answered({"X-Should-Retry": "true"}))


@pytest.mark.parametrize(
    ("subtype", "category", "strategy", "lasts", "passes"),
    [
        (
            "network_error",
            "tool_failure",
            Strategy.EXPONENTIAL_BACKOFF,
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired",
            "[Errno 104] Connection reset by peer",
        ),
        (
            "state_conflict",
            "logical_error",
            Strategy.RETRY_ONCE,
            'duplicate key value violates unique constraint "orders_pkey"',
            "could not serialize access due to concurrent update",
        ),
        (
            "state_conflict",
            "logical_error",
            Strategy.RETRY_ONCE,
            "Order 17 was already refunded",
            "Another operation is already in progress",
        ),
    ],
)
def test_what_no_wait_removes_is_not_tried_again(
    subtype: str, category: str, strategy: Strategy, lasts: str, passes: str
) -> None:
    for message, offered in ((lasts, False), (passes, True)):
        event = failure(error={"message": message}, side_effects_since_checkpoint="none")
        verdict = classify(event)
        assert (verdict.category, verdict.subtype) == (category, subtype)
        assert (strategy in ladder(event, verdict)) is offered


def test_the_sdks_own_retries_are_switched_off() -> None:
    made = ladder(failure(tool_response={"tool": "api"}, execution={"sdk_retries": 2}))[Strategy.EXPONENTIAL_BACKOFF]
    assert orjson.loads(made.parameters)["sdk_retries"] == 0


@pytest.mark.parametrize(
    ("text", "allowed_s"),
    [
        ("Connection timeout after 30s", 30),
        ("HTTPSConnectionPool(host='x', port=443): Read timed out. (read timeout=5)", 5),
        ("Timeout of 30000ms exceeded", 30),
        ("Request timed out after 2 minutes", 120),
        ("Request timed out.", None),
        ("context deadline exceeded", None),
    ],
)
def test_a_timeouts_message_says_what_was_allowed(text: str, allowed_s: float | None) -> None:
    assert timeout_said_s(text) == allowed_s
