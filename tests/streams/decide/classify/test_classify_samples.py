"""The built-in rules on every sample of real errors: one overall bar, and no harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from classify_events import error, said

from ops.bench.classify import read, score
from streams.decide.classify import load_rules
from streams.decide.classify.rules import RuleError

DATA = Path(__file__).parents[3] / "data"
SAMPLES = (
    "error_shapes",
    "errors_executed",
    "errors_reported",
    "errors_collected",
    "errors_blind",
    "errors_vocabulary",
    "errors_sealed",
    "errors_surveyed",
    "errors_unseen",
    "errors_field",
    "errors_wild",
    "errors_local",
)
MIN_ANSWERED = 0.98
MIN_RIGHT_OF_ANSWERED = 0.98


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_of_real_errors(sample: str) -> None:
    rows = read(DATA / f"{sample}.jsonl")
    result = score(rows, load_rules())
    figures = result.figures()
    wrong = [f"{row.expected} <- {verdict.subtype} by {verdict.rule}: {row.given}" for row, verdict in result.wrong]
    assert len(rows) > 100
    assert figures["answered"] >= MIN_ANSWERED, wrong
    assert figures["right_of_answered"] >= MIN_RIGHT_OF_ANSWERED, wrong
    assert figures["transient_called_permanent"] == 0, wrong
    assert figures["permanent_called_transient"] == 0, wrong


@pytest.mark.parametrize(
    ("sample", "right", "defensible", "harms"), [("sdks", 0.88, 0.97, 6), ("threads", 0.9, 0.98, 2)]
)
def test_a_sample_whose_rows_may_have_two_right_answers(
    sample: str, right: float, defensible: float, harms: int
) -> None:
    """SDKs and frameworks; issue threads. Their judges say which other subtypes are defensible."""
    result = score(read(DATA / f"errors_{sample}.jsonl"), load_rules())
    figures = result.figures()
    assert figures["answered"] >= 0.95
    assert figures["right_of_answered"] >= right
    assert figures["defensible_of_answered"] >= defensible
    assert figures["transient_called_permanent"] + figures["permanent_called_transient"] <= harms


def test_every_collected_row_says_where_it_was_seen() -> None:
    lines = (DATA / "errors_collected.jsonl").read_text().splitlines()
    assert all('"source": "' in line and '"source": ""' not in line for line in lines)
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        # Advice is weaker than the cause that it goes with.
        ("Rate limit exceeded. Please upgrade your plan or wait a minute and try again", "tool_failure/rate_limit"),
        ("The deployment does not exist. If it is new, please wait a moment and try again", "tool_failure/not_found"),
        ("Usage limit reached. Resets in 5 minutes", "tool_failure/rate_limit"),
        # What could not be read had not come.
        ("Failed to read model response: connection reset by peer", "tool_failure/network_error"),
        ("Error parsing LLM response: 503 Service Unavailable", "tool_failure/service_unavailable"),
        ("Could not extract an answer from the model's response", "hallucination/format_violation"),
        # Limits of a service are no loop of the agent.
        ("Maximum number of concurrent calls exceeded", "tool_failure/rate_limit"),
        ("max messages per minute reached", "tool_failure/rate_limit"),
        ("redirect loop detected", "tool_failure/invalid_request"),
        ("Max number of llm calls limit of 25 exceeded", "logical_error/loop"),
        # Only the request that is above its limit alone can never come through.
        ("Rate limit reached on tokens per minute: Limit 30000, Used 29000, Requested 1500", "tool_failure/rate_limit"),
        (
            "Rate limit reached on tokens per minute: Limit 30000, Used 0, Requested 31000",
            "performance/token_limit_exceeded",
        ),
        # A person who said no; not a machine, nor a business that did.
        ("Tool use failed: user denied this command", "none/control_flow"),
        ("The user did not approve this edit", "none/control_flow"),
        ("Loan approval denied: FICO 580 is below 620", "unclassified/unknown"),
        ("database user rejected by pg_hba.conf", "unclassified/unknown"),
        ("Could not resolve host: https", "tool_failure/invalid_request"),
        ("Could not resolve host: https.example.com", "tool_failure/network_error"),
        ("checksum did not match expected value", "unclassified/unknown"),
        # A login that lapsed, whatever wraps it.
        ("Deadline of 120s exceeded, last exception: 503 Reauthentication is needed", "tool_failure/auth_error"),
        ("The operation was aborted due to timeout", "tool_failure/timeout"),
        ("429 余额不足", "tool_failure/quota_exhausted"),
        # Numbers and words that only look like what a framework says.
        ("Timeout: upstream returned 130 bytes of 4096", "tool_failure/timeout"),
        ("finish_reason 2 (MAX_TOKENS). safety_ratings: []", "performance/token_limit_exceeded"),
        ("model overloaded; {'safetyRatings': []}", "tool_failure/service_unavailable"),
        ("trying to call function payments.refund: service is not available (503)", "tool_failure/service_unavailable"),
        ("trying to call tool weather: request timed out, its host was not available", "tool_failure/timeout"),
        ("Attempted to use an IP address that is not in the allowlist", "tool_failure/auth_error"),
        ("dial tcp: metadata host 169.254.169.254: i/o timeout", "tool_failure/timeout"),
        ("integration is not connected: connection timed out", "tool_failure/timeout"),
        ("Account locked after 5 consecutive login failures", "unclassified/unknown"),
        # A server that refuses a session was reached.
        ('connection failed: FATAL:  database "sales" does not exist', "tool_failure/not_found"),
        ("connection failed: FATAL:  the database system is starting up", "tool_failure/service_unavailable"),
        # No token because nobody may have one, or because nobody could be asked.
        ("ManagedIdentity failed to acquire an access token: no identity assigned", "tool_failure/auth_error"),
        ("Failed to acquire an access token: connection refused", "tool_failure/network_error"),
        ("Failed to acquire an access token: 503 Service Unavailable", "tool_failure/service_unavailable"),
        # A process has a quota of memory, a store as well.
        ("worker.2: Error R15 (Memory quota vastly exceeded)", "performance/out_of_memory"),
        ("deny to write, reason: memory quota exceeded", "tool_failure/service_unavailable"),
        ("JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT", "performance/timeout"),
        ("JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION", "tool_failure/service_unavailable"),
        ("The user doesn't want to proceed with this tool use.", "none/control_flow"),
        # Why a stream ended outranks that it ended.
        ("stream disconnected before completion: Rate limit is exceeded. Try again in 9 s", "tool_failure/rate_limit"),
        ("stream disconnected before completion: Transport error", "tool_failure/network_error"),
        # A quota of nothing never refills, whatever delay is named.
        (
            "429 Quota exceeded for metric: free_tier_requests, limit: 0. Please retry in 20s",
            "tool_failure/quota_exhausted",
        ),
        (
            "429 Quota exceeded for metric: free_tier_requests, limit: 10. Please retry in 20s",
            "tool_failure/rate_limit",
        ),
        # What a model, an endpoint or a peer cannot do.
        ("404 No endpoints found that support the provided 'tool_choice' value", "tool_failure/invalid_request"),
        ("404 No endpoints found for some/model", "tool_failure/not_found"),
        ("The model doesn\u2019t support image input", "tool_failure/invalid_request"),
        # Who wrote the bytes.
        ("Invalid JSON-RPC response: neither result nor error", "tool_failure/bad_response"),
        ("The LLM returned an empty response", "tool_failure/bad_response"),
        # The same number is another errno of a resolver.
        (
            "npm error errno -2\nnpm error ENOENT: no such file or directory, open 'package.json'",
            "tool_failure/not_found",
        ),
        ("[Errno -2] Name or service not known", "tool_failure/network_error"),
        # A stack says less than what it ends with.
        (
            "Traceback (most recent call last):\nhttpx.ConnectError: [Errno 111] Connection refused",
            "tool_failure/network_error",
        ),
        ("Traceback (most recent call last):\nHTTPError: 503 Server Error", "tool_failure/service_unavailable"),
        # A file that cannot be opened, and why.
        ("could not open file: Permission denied", "tool_failure/auth_error"),
        ("could not open file: Too many open files", "tool_failure/service_unavailable"),
        # A variable that is not set, and one of credentials.
        ("DATABASE_URL environment variable is not set", "logical_error/missing_context"),
        ("OPENAI_API_KEY environment variable is not set", "tool_failure/auth_error"),
        # Try again later, in other languages, and what outranks it.
        ("系统异常, 请稍后重试", "tool_failure/service_unavailable"),
        ("请求过于频繁, 请稍后再试", "tool_failure/rate_limit"),
        ("余额不足, 请充值后稍后再试", "tool_failure/quota_exhausted"),
        ("登录超时, 请重新登录", "tool_failure/auth_error"),
        ("Bitte versuchen Sie es später erneut", "tool_failure/service_unavailable"),
        ("Слишком много запросов, попробуйте позже", "tool_failure/rate_limit"),
        # The last part of a code is the specific one.
        ("<400> InternalError.Algo.InvalidParameter: no such thing", "tool_failure/invalid_request"),
    ],
)
def test_words_that_resemble_another_cause(message: str, verdict: str) -> None:
    assert said(error(message)) == verdict


def test_a_rule_for_parts_of_a_character_is_refused(tmp_path: Path) -> None:
    """RE2's search cannot cut characters beyond ASCII: a tenant's rule that asks for it is named an error, no crash."""
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nname = "x"\nverdict = "tool_failure/timeout"\nstrength = 1\n'
        'source = "x"\ntext = ["(调用|调x)太频?"]\n'
    )
    with pytest.raises(RuleError):
        load_rules(rules)
