"""No failure that passes is called lasting, none that lasts is retried: wrappers, conflicts, odd statuses."""

from __future__ import annotations

import pytest
from classify_events import chained, details, error, tool

from schemas.records import FailureEvent
from streams.decide.classify import classify
from streams.decide.classify.rules import compile_rules
from streams.decide.classify.taxonomy import TRANSIENT

PASSING = (
    ("httpx.ConnectError", "[Errno 111] Connection refused"),
    ("httpx.ReadTimeout", "The read operation timed out"),
    ("openai.RateLimitError", "Rate limit reached for requests"),
    ("anthropic.OverloadedError", "Overloaded"),
    ("InternalServerError", "Internal server error"),
    ("requests.exceptions.ConnectionError", "Connection reset by peer"),
    ("RuntimeError", "503 Service Unavailable"),
    ("ToolException", "too many requests"),
    ("MaxRetryError", "Max retries exceeded with url: /v1"),
)
LASTING = (
    ("openai.AuthenticationError", "Incorrect API key provided"),
    ("openai.NotFoundError", "The model `x` does not exist"),
    ("openai.BadRequestError", "Unsupported parameter: 'max_tokens'"),
    ("openai.RateLimitError", "insufficient_quota: You exceeded your current quota"),
    ("ContentPolicyViolationError", "Your request was rejected by our safety system"),
    ("HTTPError", "401 Unauthorized"),
    ("HTTPError", "404 Not Found"),
    ("HTTPError", "403 Forbidden"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: 'x'"),
    ("BadRequestError", "context length exceeded: the prompt is too long"),
)


@pytest.mark.parametrize("outer", PASSING)
@pytest.mark.parametrize("inner", LASTING)
def test_what_is_wrapped_as_passing_but_lasts_is_not_retried(outer: tuple[str, str], inner: tuple[str, str]) -> None:
    assert classify(chained(outer, inner)).subtype not in TRANSIENT


@pytest.mark.parametrize("outer", [link for link in LASTING if link[0].startswith(("openai.A", "openai.N", "HTTP"))])
@pytest.mark.parametrize("inner", [link for link in PASSING if link[0] not in ("MaxRetryError",)])
def test_a_refusal_that_wraps_an_outage_is_an_outage_or_not_known(
    outer: tuple[str, str], inner: tuple[str, str]
) -> None:
    assert classify(chained(outer, inner)).subtype in TRANSIENT | {"unknown"}


@pytest.mark.parametrize(
    ("given", "lasts"),
    [
        (error("Connection failed: 403 Forbidden", http_status=503), True),
        (tool(503, "upstream rejected the request: invalid API key"), True),
        (tool(503, body={"error": {"code": "insufficient_quota"}}), True),
        (tool(429, body={"error": {"code": "billing_hard_limit_reached"}}), True),
        (tool(500, body={"error": "Request failed with status code 404"}), True),
        (tool(400, "Deadline of the job must be in the future"), True),
        (tool(422, "timeout must be less than or equal to 60"), True),
        (error("Failed to fetch https://x.test/robots.txt due to a connection issue"), False),
        (tool(403, "You have exceeded a secondary rate limit"), False),
        (tool(404, "no healthy upstream"), False),
        (tool(401, "Authentication service temporarily unavailable, try again later"), False),
        (error("The server is temporarily overloaded, please retry", http_status=400), False),
    ],
)
def test_clothes_of_the_other_transience(given: FailureEvent, lasts: bool) -> None:
    assert (classify(given).subtype in TRANSIENT) is not lasts


@pytest.mark.parametrize("status", [401, 429, 503])
def test_evidence_of_equal_weight_for_and_against_waiting_is_an_abstention(status: int) -> None:
    """One code that says wait and one that says never, of equal standing."""
    rules = compile_rules(
        [
            {
                "rule": [
                    {"name": "a", "verdict": "tool_failure/timeout", "strength": 90, "source": "x", "text": ["alpha"]},
                    {
                        "name": "b",
                        "verdict": "tool_failure/auth_error",
                        "strength": 90,
                        "source": "x",
                        "text": ["beta"],
                    },
                ]
            }
        ]
    )
    assert classify(error("alpha beta", http_status=status), rules).subtype == "unknown"
    assert classify(error("alpha", http_status=status), rules).subtype == "timeout"


@pytest.mark.parametrize(
    "given",
    [
        # An SDK's code for whatever a tool raised.
        error("Command contains strange operators", "McpError", code="-32603", protocol="mcp"),
        error("Insufficient tokens for group 'ReadGroup' of service", "gspread.exceptions.APIError"),
        # Words of one transience under a class of the other.
        error("No project found for the keys", "e2b.exceptions.TimeoutException"),
        # A blame that hardly outweighs a cause that passes.
        error("Invalid tool call: ReadTimeout", origin="model"),
    ],
)
def test_weak_evidence_is_no_answer(given: FailureEvent) -> None:
    assert classify(given).subtype == "unknown"


def test_a_blame_beside_a_cause_that_passes_is_an_abstention() -> None:
    entries = [
        {"name": "a", "verdict": "hallucination/unknown_tool", "strength": 86, "source": "x", "text": ["alpha"]},
        {"name": "b", "verdict": "tool_failure/timeout", "strength": 80, "source": "x", "text": ["beta"]},
        {"name": "c", "verdict": "logical_error/state_conflict", "strength": 86, "source": "x", "text": ["gamma"]},
    ]
    rules = compile_rules([{"rule": entries}])
    assert classify(error("alpha beta"), rules).subtype == "unknown"
    assert classify(error("alpha"), rules).subtype == "unknown_tool"
    assert classify(error("gamma beta"), rules).subtype == "state_conflict"


@pytest.mark.parametrize(
    ("message", "lasts"),
    [
        ("getaddrinfo ENOTFOUND bedrock-runtime.undefined.amazonaws.com", True),
        ("getaddrinfo ENOTFOUND api.openai.com", False),
        ("[Errno 28] No space left on device", True),
        ("[Errno 24] Too many open files", False),
    ],
)
def test_what_no_wait_fills_in_or_frees_lasts(message: str, lasts: bool) -> None:
    verdict = classify(error(message))
    assert verdict.subtype in TRANSIENT
    assert (details(verdict).get("lasting") is True) is lasts


@pytest.mark.parametrize(
    ("wrapper", "class_name"),
    [
        ("Failed to connect to the server 'x': {}", None),
        ("stream disconnected before completion: {}", None),
        ("{}", "ConnectionError"),
        ("{}", "openai.InternalServerError"),
        ("{}", "TimeoutError"),
        ("litellm.APIConnectionError: {}", "litellm.APIConnectionError"),
    ],
)
@pytest.mark.parametrize(
    "clause",
    [
        "Request failed with status code 401",
        "HTTP 404: no such folder",
        "The project was not found",
        'HTTP 400: "period_end" must not precede "period_start"',
    ],
)
def test_a_wrapper_that_sounds_passing_hides_no_refusal(wrapper: str, class_name: str | None, clause: str) -> None:
    assert classify(error(wrapper.format(clause), class_name)).subtype not in TRANSIENT


def test_what_a_wrapper_says_and_the_wrapped_says_as_well_is_not_torn_by_its_status() -> None:
    """Google gives 403 and PERMISSION_DENIED to a rate limit, and runtimes repeat the answer as their exception."""
    body = '{"error": {"code": 403, "status": "PERMISSION_DENIED", "errors": [{"reason": "userRateLimitExceeded"}]}}'
    given = tool(403, body).model_copy(update={"error": error(body, code="userRateLimitExceeded").error})
    assert classify(given).subtype == "rate_limit"
