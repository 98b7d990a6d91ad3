"""Secrets never leave: not in evidence, not in details, not in what audit stores."""

from __future__ import annotations

import orjson
import pytest
from classify_events import error, event, tool
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Checkpoint, Execution, ToolResponse
from streams.decide.classify import classify, mask, mask_event
from streams.decide.classify.masking import MASK

AWS = "AKIA" + "ABCDEFGHIJKLMNOP"
SECRETS = [
    ("Incorrect API key provided: {}.", "sk-" + "abcDEF123456789012345678"),
    ("Authorization: Bearer {}", "abc.def-ghi_jkl"),
    ("'authorization': 'Basic {}'", "dXNlcjpwYXNzd29yZA=="),
    ('{{"api_key": "{}"}}', "0123456789abcdef"),
    ('{{\\"password\\": \\"{}\\"}}', "hunter2hunter2"),
    ("password={} host=x", "correcthorse"),
    ("https://api.x.com/v1?key={}&q=1", "AbCdEfGhIjKlMnOp"),
    ("https://api.x.com/v1?access_token={}", "tok_123456"),
    ("postgresql://user:{}@db:5432/x", "p4ss!w0rd"),
    ("redis://:{}@cache:6379/0", "sosecret"),
    ("token {} is expired", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    ("aws {} denied", AWS),
    ("push with {} failed", "ghp_" + "a1" * 18),
    ("slack said {}", "xoxb-" + "1234567890-abcdef"),
    ("x-api-key: {}", "k-1234567890"),
    ("client_secret={}", "s3cr3tv4lue"),
    ("the password is {}", "hunter2xyz"),
    ("Set-Cookie: {}", "session=abcdef123456"),
    ("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----", "MIIEowIBAAKCAQEA7"),
]


@pytest.mark.parametrize(("form", "secret"), SECRETS)
def test_secrets_are_masked_and_the_rest_stays(form: str, secret: str) -> None:
    masked = mask(form.format(secret))
    assert secret not in masked
    assert MASK in masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 4097 tokens. You requested 6988 tokens.",
        "max_tokens: 100000 > 8192",
        "tokens per min (TPM): Limit 30000, Used 18928",
        "the token count (1200) exceeds the limit",
        "https://docs.example.com/errors/401?page=2",
        "see http://host:8080/path",
        "monkey=banana",
        "Error code: 401 - invalid x-api-key",
        "",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(("form", "secret"), SECRETS)
def test_no_verdict_lets_a_secret_out(form: str, secret: str) -> None:
    text = form.format(secret)
    events = [
        error(text + " Connection refused", "ConnectError", code=text),
        tool(401, text, headers={"Authorization": f"Bearer {secret}"}, body={"error": {"message": text}}),
        event(output={"note": text}, constraints={"note": {"type": "enum", "values": ["x"]}}),
        event(output={"password": secret}, constraints={"password": {"type": "format", "pattern": "x"}}),
        event(reasoning=[{"assumption": {"a": text}}], facts={"a": "other thing"}, conclusion=text),
        event(conclusion=text, expected_output={"correct_conclusion": "no"}),
        event(output={"a": f"3 {text}", "b": text}, constraints={"rules": ["a == b"]}),
    ]
    for given_event in events:
        assert secret not in classify(given_event).model_dump_json(), classify(given_event)


def test_what_audit_stores_is_masked_everywhere() -> None:
    secret = "sk-" + "abcdef1234567890abcdef"
    whole = event(
        output={"key": secret},
        reasoning=f"I use {secret}",
        conclusion=secret,
        facts={"api_key": "plainvalue"},
        tool_response=ToolResponse(
            error=secret, headers={"x-api-key": "plainvalue"}, body=orjson.dumps([secret]).decode()
        ),
        checkpoint=Checkpoint(id="c", data=orjson.dumps({"s": secret}).decode(), uri="https://u:plainvalue@h/x"),
        execution=Execution(prompt=f"use {secret}"),
        error=error(f"bad {secret}").error,
        step=secret,
    )
    masked = mask_event(whole)
    text = masked.model_dump_json()
    assert secret not in text
    assert "plainvalue" not in text
    assert mask_event(masked) == masked
    assert masked.output is not None
    assert orjson.loads(masked.output) == {"key": MASK}


def test_an_event_without_secrets_is_stored_as_it_is() -> None:
    whole = event(output={"a": 1.0, "b": [None, "x"]}, error=error("boom").error)
    assert mask_event(whole) == whole


@given(st.text(max_size=300))
def test_masking_is_idempotent_and_never_raises(text: str) -> None:
    assert mask(mask(text)) == mask(text)
