"""Errors: the base rules, and which evidence decides."""

from __future__ import annotations

from typing import Any

import pytest
from classify_events import chained, details, error, event, said, tool

from schemas.records import NATURAL, Classification, ErrorInfo, FailureEvent, FailureOrigin
from streams.decide.classify import classify


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (429, "rate_limit"),
        (408, "timeout"),
        (504, "timeout"),
        (401, "auth_error"),
        (403, "auth_error"),
        (404, "not_found"),
        (500, "service_unavailable"),
        (502, "service_unavailable"),
        (503, "service_unavailable"),
        (529, "service_unavailable"),
        (402, "quota_exhausted"),
        (400, "invalid_request"),
        (418, "unknown"),
    ],
)
def test_a_status_alone(status: int, verdict: str) -> None:
    assert said(tool(status)) == f"tool_failure/{verdict}"


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("Connection timeout after 30s", "timeout"),
        ("context deadline exceeded", "timeout"),
        ("connect ECONNREFUSED 127.0.0.1:5432", "network_error"),
        ("[Errno 104] Connection reset by peer", "network_error"),
        ("getaddrinfo ENOTFOUND api.example.com", "network_error"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "network_error"),
        ("HTTPConnectionPool(host='x', port=80): Max retries exceeded with url: /", "network_error"),
        ("something odd happened", "unknown"),
    ],
)
def test_a_tool_s_message_without_a_status(message: str, verdict: str) -> None:
    """A missing status is no status: read as 500 it would hide network errors."""
    assert said(tool(text=message)) == f"tool_failure/{verdict}"


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (chained(("ToolException", "failed"), ("httpx.ReadTimeout", "")), "tool_failure/timeout"),
        (chained(("APIConnectionError", "Connection error."), ("ConnectTimeout", "")), "tool_failure/timeout"),
        (
            chained(
                ("RateLimitError", "insufficient_quota"), ("HTTPStatusError", "Client error '429 Too Many Requests'")
            ),
            "tool_failure/quota_exhausted",
        ),
        (
            chained(("RuntimeError", "node failed"), ("ValueError", "x"), ("MemoryError", "")),
            "performance/out_of_memory",
        ),
        # asyncio raises TimeoutError from CancelledError: what is cancelled inside is no interrupt of the run.
        (chained(("TimeoutError", ""), ("asyncio.exceptions.CancelledError", "")), "performance/timeout"),
    ],
)
def test_the_innermost_telling_cause_wins(given: FailureEvent, verdict: str) -> None:
    assert said(given) == verdict


@pytest.mark.parametrize(
    "cause",
    [
        [{"class": "SocketError", "message": "other side closed"}],
        {"class": "AxiosError", "message": "x", "cause": {"message": "read ECONNRESET", "code": "ECONNRESET"}},
        "connect ECONNREFUSED 10.0.0.1:443",
    ],
)
def test_a_cause_that_json_nests_is_read(cause: Any) -> None:
    document = {"tenant_id": "t", "execution_id": "e", "error": {"class": "TypeError", "message": "x", "cause": cause}}
    assert said(FailureEvent.model_validate(document, context=NATURAL)) == "tool_failure/network_error"


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (
            error("Exceeded rate limits: too many concurrent queries", "api_core.Forbidden", http_status=403),
            "rate_limit",
        ),
        (error("[Errno Expecting value] API requests per minute exceeded: 0", "JSONDecodeError"), "rate_limit"),
        (error("[Error 89]", "kafka.errors.ThrottlingQuotaExceededError"), "rate_limit"),
        (error("503 Deadline Exceeded", "ServiceUnavailable", http_status=503), "timeout"),
        (error('Get "https://api.example.com/v1": EOF', "*url.Error"), "network_error"),
        (error("Request failed with status code 502", "AxiosError", code="ERR_BAD_RESPONSE"), "service_unavailable"),
        (error("RPC failed; result=22, HTTP code = 401"), "auth_error"),
        (error("Errors: * seal: Unexpected response code: 403", http_status=500), "auth_error"),
        (error("An API error occurred: channel_not_found"), "not_found"),
        (error("Firebase: Error (auth/network-request-failed)."), "network_error"),
        (error("远程主机强迫关闭了一个现有的连接。 (os error 10054)"), "network_error"),
        (error("ORA-01017: ユーザー名/パスワードが無効です", "DatabaseError"), "auth_error"),
        (error('(1045, "Accès refusé pour l\'utilisateur")', "OperationalError"), "auth_error"),
    ],
)
def test_what_is_said_of_the_cause_outranks_what_it_is_called(given: FailureEvent, verdict: str) -> None:
    assert said(given) == f"tool_failure/{verdict}"


@pytest.mark.parametrize(
    "given",
    [
        error("Rate limit exceeded for this project", "PermissionDenied", http_status=403),
        error("Quota exceeded for requests_per_base_model", "TooManyRequests", http_status=429),
    ],
)
def test_where_a_name_and_words_differ_on_waiting_nothing_lasting_is_said(given: FailureEvent) -> None:
    assert said(given) in ("tool_failure/rate_limit", "tool_failure/unknown", "unclassified/unknown")


@pytest.mark.parametrize(
    "name",
    [
        "langgraph.errors.GraphInterrupt",
        "NodeInterrupt",
        "asyncio.CancelledError",
        "temporalio.exceptions.CancelledError",
        "DBOSWorkflowCancelledError",
        "pydantic_ai.exceptions.ApprovalRequired",
        "KeyboardInterrupt",
    ],
)
def test_control_flow_is_recognised_before_all(name: str) -> None:
    output_too = event(
        error=ErrorInfo(class_name=name, message="429 rate limit exceeded"),
        output={"apr": 0},
        constraints={"apr": {"type": "range", "min": 1}},
    )
    assert said(output_too) == "none/control_flow"


@pytest.mark.parametrize(
    "given",
    [
        error("canceling statement due to statement timeout", "psycopg.errors.QueryCanceled"),
        error("The request was canceled due to the configured timeout of 100 seconds elapsing"),
    ],
)
def test_a_cancelled_query_is_no_control_flow(given: FailureEvent) -> None:
    assert said(given) == "tool_failure/timeout"


@pytest.mark.parametrize(
    ("given", "may_have"),
    [
        (tool(429), False),
        (tool(401), False),
        (tool(403), False),
        (tool(404), False),
        (tool(500), True),
        (tool(503), True),
        (tool(504), True),
        (tool(text="Connection refused"), False),
        (tool(text="Name or service not known"), False),
        (tool(text="Connection reset by peer"), True),
        (tool(text="Read timed out"), True),
        (error("", "httpx.ConnectTimeout", origin="tool"), False),
        (error("", "httpx.ReadTimeout", origin="tool"), True),
        (tool(418), True),
    ],
)
def test_whether_the_call_may_have_executed(given: FailureEvent, may_have: bool) -> None:
    assert details(classify(given))["call_may_have_executed"] is may_have


def test_the_verdict_explains_itself() -> None:
    verdict = classify(
        tool(429, "Rate limit reached, bearer abcdefghijklmnop", body={"error": {"type": "server_error"}})
    )
    assert (verdict.rule, verdict.severity) == ("status-rate-limit", "low")
    weights = [item.source for item in verdict.evidence if item.rule.endswith("rate-limit")]
    assert weights == sorted(weights, key=["structured", "class_name", "message"].index)
    assert "service_unavailable" in verdict.counterfactual
    assert "429" in verdict.explanation
    assert 0.8 <= verdict.confidence < 1
    assert "abcdefghijklmnop" not in verdict.model_dump_json()


@pytest.mark.parametrize("given", [event(), error("odd"), event(output={"a": 1})])
def test_without_evidence_it_abstains(given: FailureEvent) -> None:
    verdict = classify(given)
    assert (verdict.category, verdict.subtype, verdict.confidence) == ("unclassified", "unknown", 0.0)
    assert verdict.counterfactual


def test_equal_events_give_equal_verdicts() -> None:
    given = tool(400, body={"error": {"message": "Your credit balance is too low to access the API."}})
    verdicts: list[Classification] = [classify(given) for _ in range(3)]
    assert verdicts[0] == verdicts[1] == verdicts[2]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"duration_s": 45.0, "timeout_s": 30.0}, "performance/timeout"),
        ({"memory_bytes": 3 << 30, "memory_limit_bytes": 2 << 30}, "performance/out_of_memory"),
        ({"tokens": 5000, "token_limit": 4000}, "performance/token_limit_exceeded"),
        ({"tokens": 4000, "token_limit": 4000}, "unclassified/unknown"),
        ({"duration_s": 45.0}, "unclassified/unknown"),
        ({"steps": 25, "step_limit": 25}, "logical_error/loop"),
        ({"duration_s": 45.0, "timeout_s": 30.0, "tokens": 5, "token_limit": 4}, "performance/token_limit_exceeded"),
    ],
)
def test_limits(fields: dict[str, Any], verdict: str) -> None:
    assert said(event(metrics=fields)) == verdict


def test_a_limit_s_details_hold_how_far_it_was_exceeded() -> None:
    found = details(classify(event(metrics={"duration_s": 45.0, "timeout_s": 30.0})))
    assert found == {"limit": 30.0, "measured": 45.0, "unit": "s", "overshoot": 0.5}


@pytest.mark.parametrize(
    ("origin", "status", "used", "verdict"),
    [
        (FailureOrigin.RUNTIME, None, 3, "performance/out_of_memory"),
        (FailureOrigin.RUNTIME, None, 1, "tool_failure/service_unavailable"),
        (FailureOrigin.RUNTIME, 503, 3, "tool_failure/service_unavailable"),
        (FailureOrigin.TOOL, None, 3, "tool_failure/service_unavailable"),
    ],
)
def test_a_process_that_died_over_its_memory_limit_ran_out_of_memory(
    origin: FailureOrigin, status: int | None, used: int, verdict: str
) -> None:
    given = event(
        origin=origin,
        error=ErrorInfo(message="A process in the process pool was terminated abruptly", http_status=status),
        metrics={"memory_bytes": used << 30, "memory_limit_bytes": 2 << 30},
    )
    assert said(given) == verdict


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({"status": "OVER_QUERY_LIMIT", "results": []}, "tool_failure/rate_limit"),
        ({"status": "error", "message": "invalid API key"}, "tool_failure/auth_error"),
        ({"errorMessage": "Rate limit exceeded"}, "tool_failure/rate_limit"),
        ({"status": "ok", "message": "invalid API key"}, "tool_failure/unknown"),
    ],
)
def test_a_body_that_says_by_its_status_that_it_failed_is_read_under_a_200(body: dict[str, Any], verdict: str) -> None:
    assert said(tool(200, body=body)) == verdict


@pytest.mark.parametrize(
    ("line", "verdict"),
    [("SSH-2.0-OpenSSH_9.2", "tool_failure/bad_response"), ("''", "tool_failure/network_error")],
)
def test_a_peer_that_speaks_another_protocol_was_reached(line: str, verdict: str) -> None:
    assert said(error(line, "http.client.BadStatusLine")) == verdict
