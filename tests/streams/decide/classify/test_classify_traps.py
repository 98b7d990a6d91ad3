"""Every trap that real libraries set."""

from __future__ import annotations

import pytest
from classify_events import error, said, tool

from schemas.records import FailureEvent

TRAPS: list[tuple[str, FailureEvent, str]] = [
    (
        "billing as 400",
        tool(400, body={"error": {"message": "Your credit balance is too low to access the API."}}),
        "tool_failure/quota_exhausted",
    ),
    (
        "a rate limit as 403",
        tool(403, body={"message": "You have exceeded a secondary rate limit."}),
        "tool_failure/rate_limit",
    ),
    (
        "auth as 400",
        tool(400, body={"error": {"message": "API key not valid.", "status": "INVALID_ARGUMENT"}}),
        "tool_failure/auth_error",
    ),
    ("overload as 429", tool(429, body={"error": {"type": "overloaded_error"}}), "tool_failure/service_unavailable"),
    ("overload as 400", tool(400, body={"error": {"type": "overloaded_error"}}), "tool_failure/service_unavailable"),
    ("Bedrock's 424", tool(424, body={"__type": "ModelErrorException"}), "tool_failure/service_unavailable"),
    ("account policy as 404", tool(404, "No endpoints found matching your data policy"), "tool_failure/auth_error"),
    (
        "an outer 500 that wraps a 403",
        tool(500, "upstream said: Error code: 403 - forbidden"),
        "tool_failure/auth_error",
    ),
    (
        "HTTP 200 with an error body",
        tool(200, body={"ok": False, "error": "invalid_auth"}),
        "tool_failure/auth_error",
    ),
    (
        "MCP isError=false with an error text",
        tool(text="Error: connect ECONNREFUSED 10.0.0.1:443", protocol="mcp", body={"isError": False}),
        "tool_failure/network_error",
    ),
    (
        "LiteLLM's refused connection as 500",
        error("OpenAIException - Connection error.", "litellm.InternalServerError", http_status=500),
        "tool_failure/network_error",
    ),
    (
        "Groq's 413 as 429",
        error("Request too large for model `x`: Limit 6000, Requested 14368", "RateLimitError", http_status=429),
        "performance/token_limit_exceeded",
    ),
    (
        "an SSL failure called InternalServerError",
        error("[SSL: WRONG_VERSION_NUMBER] wrong version number", "InternalServerError", http_status=500),
        "tool_failure/network_error",
    ),
    (
        "OpenRouter's metadata.raw",
        tool(
            400,
            body={
                "error": {
                    "message": "Provider returned error",
                    "code": 400,
                    "metadata": {"raw": '{"error":{"message":"prompt is too long: 2 tokens > 1 maximum"}}'},
                }
            },
        ),
        "performance/token_limit_exceeded",
    ),
    ("AutoGen's RuntimeError('Type: msg')", error("ReadTimeout: ", "RuntimeError"), "tool_failure/timeout"),
    (
        "nested MCP codes, the innermost wins",
        error("MCP error -32603: MCP error -32001: Request timed out", "McpError", code="-32603", protocol="mcp"),
        "tool_failure/timeout",
    ),
    (
        "ExceptionGroup",
        error("unhandled errors in a TaskGroup (1 sub-exception): [ConnectError('refused')]", "ExceptionGroup"),
        "tool_failure/network_error",
    ),
    ("an empty TimeoutError", error("", "TimeoutError"), "performance/timeout"),
    ("an empty TimeoutError of a tool", error("", "TimeoutError", origin="tool"), "tool_failure/timeout"),
    ("an empty MemoryError", error("", "MemoryError"), "performance/out_of_memory"),
    ("exit code 137", error("exited", exit_code=137), "performance/out_of_memory"),
    ("SIGKILL", error("Command died with <Signals.SIGKILL: 9>.", "CalledProcessError"), "performance/out_of_memory"),
    ("a number within a word", error("payload429snippet"), "unclassified/unknown"),
    (
        "max_tokens in a refusal of a parameter",
        tool(400, "Unsupported parameter: 'max_tokens' is not supported with this model."),
        "tool_failure/invalid_request",
    ),
    (
        "a rate limit that asks for a shorter prompt",
        tool(
            429,
            "This request would exceed your organization's rate limit of 40,000 input tokens per minute. "
            "Please reduce the prompt length or the maximum tokens requested, or try again later.",
        ),
        "tool_failure/rate_limit",
    ),
    (
        "invalid_request_error as the type of a rate limit",
        tool(429, body={"error": {"type": "invalid_request_error", "message": "Rate limit reached"}}),
        "tool_failure/rate_limit",
    ),
    (
        "invalid_request_error as the type of a token limit",
        tool(400, body={"error": {"type": "invalid_request_error", "message": "prompt is too long"}}),
        "performance/token_limit_exceeded",
    ),
    (
        "Range of input length",
        tool(400, "Range of input length should be [1, 30720]"),
        "performance/token_limit_exceeded",
    ),
    (
        "insufficient_quota under 429",
        tool(429, body={"error": {"code": "insufficient_quota"}}),
        "tool_failure/quota_exhausted",
    ),
    (
        "a quota that refills in a minute",
        tool(429, "You exceeded your current quota, please check your plan and billing details. Please retry in 34s."),
        "tool_failure/rate_limit",
    ),
    ("-32001 in MCP", error("x", code="-32001", protocol="mcp"), "tool_failure/timeout"),
    ("-32001 in A2A", error("x", code="-32001", protocol="a2a"), "tool_failure/not_found"),
    (
        "a model's JSONDecodeError",
        error("Expecting value: line 1 column 1 (char 0)", "JSONDecodeError", origin="model"),
        "hallucination/format_violation",
    ),
    (
        "a tool's JSONDecodeError",
        error("Expecting value: line 1 column 1 (char 0)", "JSONDecodeError", origin="tool"),
        "tool_failure/bad_response",
    ),
    ("httpx2", error("timed out", "httpx2._exceptions.ReadTimeout"), "tool_failure/timeout"),
    ("a KeyError whose text is a word", error("'token'", "KeyError"), "logical_error/runtime_error"),
    (
        "a TypeError of JavaScript's fetch",
        error("fetch failed", "TypeError"),
        "tool_failure/network_error",
    ),
    ("502 page in HTML", tool(502, body="<html><h1>Bad Gateway</h1></html>"), "tool_failure/service_unavailable"),
]


@pytest.mark.parametrize(("given", "verdict"), [trap[1:] for trap in TRAPS], ids=[trap[0] for trap in TRAPS])
def test_traps(given: FailureEvent, verdict: str) -> None:
    assert said(given) == verdict
