"""What a decision costs: CPU time of classify, of the whole decision, and the tail over random and mutated events."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from schemas.records import NATURAL, ErrorInfo, FailureEvent, Origin, SideEffects, ToolResponse
from streams.decide import Rates, decide
from streams.decide.catalogue import shipped
from streams.decide.classify import classify

BUDGET_US: Final = {"status code": 40.0, "long message": 150.0}
_ROUNDS: Final = 2_000
_EVENTS: Final = 10_000
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS: Final = [
    "the",
    "request",
    "to",
    "model",
    "failed",
    "because",
    "connection",
    "timeout",
    "after",
    "limit",
    "tokens",
    "exceeded",
    "rate",
    "quota",
    "not",
    "found",
    "invalid",
    "api",
    "key",
    "error",
    "code",
    "429",
    "500",
    "'code':",
    "'type':",
    "maximum",
    "context",
    "length",
    "tool",
    "call",
    "history",
    "format",
    "value",
    "out",
    "of",
    "range",
    "retry",
    "{}",
    "[]",
    '"',
    "\\",
    "é",
    "💥",
]


def _event(**fields: Any) -> FailureEvent:
    return FailureEvent(
        tenant_id="bench", execution_id="bench", side_effects_since_checkpoint=SideEffects.NONE, **fields
    )


def examples() -> Mapping[str, FailureEvent]:
    """An event with a status code, and one with a long message without any."""
    long = "While the agent worked on its task the following was reported by the layer below. " * 45
    return {
        "status code": _event(tool_response=ToolResponse(tool="search", status_code=503, error="Service Unavailable")),
        "long message": _event(error=ErrorInfo(class_name="AgentError", message=long + "Connection reset by peer")),
    }


def random_event(source: random.Random, rows: Sequence[Mapping[str, Any]]) -> FailureEvent:
    """A real error cut, doubled and mixed with another, or random values in every field; always a valid record."""
    if rows and source.random() < 0.6:
        first, second = dict(source.choice(rows)), source.choice(rows)
        for name in ("exception_class", "http_status", "code"):
            if source.random() < 0.3:
                first[name] = second.get(name)
        text = str(first.get("message") or "")
        cut = source.randrange(len(text) + 1)
        text = source.choice((text[:cut], text[cut:] + str(second.get("message")), text * source.randrange(1, 8)))
        error = {
            "class": first.get("exception_class"),
            "message": text,
            "code": str(first.get("code")),
            "http_status": first.get("http_status"),
            "cause_chain": [{"class": second.get("exception_class"), "message": second.get("message")}]
            * source.randrange(4),
        }
        fields: dict[str, Any] = {"error": error, "origin": source.choice(("unknown", "model", "tool", "runtime"))}
    else:
        fields = {
            name: _value(source, 0)
            for name in ("output", "constraints", "reasoning", "conclusion", "expected_output", "facts")
            if source.random() < 0.6
        }
        fields["tool_response"] = {
            "body": _value(source, 0),
            "status_code": source.choice((None, 200, 400, 429, 500, 2**31 - 1)),
        }
        fields["required_steps"] = [_text(source) for _ in range(source.randrange(4))]
        fields["calls"] = [{"tool": "t", "call_fingerprint": source.choice("ab")} for _ in range(source.randrange(12))]
    fields["protocol"] = source.choice(("none", "http", "mcp", "a2a", "grpc"))
    return FailureEvent.model_validate({"tenant_id": "t", "execution_id": "e", **fields}, context=NATURAL)


_KEYS: Final = [
    "type",
    "range",
    "enum",
    "format",
    "min",
    "max",
    "values",
    "pattern",
    "properties",
    "required",
    "items",
    "a",
    "b",
    "rules",
    "assumption",
    "error",
    "code",
]


def _value(source: random.Random, depth: int) -> Any:
    kind = source.randrange(8 if depth < 4 else 5)
    if kind < 2:
        return source.choice((None, True, 0, -1.5, 10**15, 5, "5 %", "2026-01-01", "range", "enum", "format", "object"))
    if kind < 5:
        return _text(source)
    if kind == 5:
        return [_value(source, depth + 1) for _ in range(source.randrange(5))]
    return {source.choice(_KEYS): _value(source, depth + 1) for _ in range(source.randrange(6))}


def _text(source: random.Random) -> str:
    words = source.randrange(source.choice((3, 40, 600)))
    return " ".join(source.choice(_WORDS) for _ in range(words))


def _cpu_us(call: Callable[[], object]) -> float:
    """CPU microseconds of one call, warm."""
    call()
    start = time.process_time()
    for _ in range(_ROUNDS):
        call()
    return (time.process_time() - start) / _ROUNDS * 1e6


def print_costs() -> dict[str, float]:
    """Measure, print a line for each figure, return the figures (microseconds; tail in milliseconds)."""
    figures: dict[str, float] = {}
    rates, catalogue, origin = Rates(), shipped(), Origin(partition=0, offset=0)
    for name, event in examples().items():

        def whole(event: FailureEvent = event) -> object:
            return decide(event, failure_id="f", origin=origin, rates=rates, catalogue=catalogue, now=_NOW)

        def verdict(event: FailureEvent = event) -> object:
            return classify(event)

        figures[f"classify, {name}, us"] = round(_cpu_us(verdict), 1)
        figures[f"decide, {name}, us"] = round(_cpu_us(whole), 1)
    figures |= _tail()
    for name, value in figures.items():
        budget = next((limit for key, limit in BUDGET_US.items() if name == f"decide, {key}, us"), None)
        print(f"{name:<40} {value:>10}" + (f"  of {budget}" if budget else ""))
    return figures


def _tail() -> dict[str, float]:
    source = random.Random(0)
    events = [random_event(source, _sample()) for _ in range(_EVENTS)]
    times: list[float] = []
    for event in events:
        start = time.process_time()
        classify(event)
        times.append(time.process_time() - start)
    times.sort()
    return {
        "random events, p50, ms": round(times[len(times) // 2] * 1e3, 3),
        "random events, p99.9, ms": round(times[int(len(times) * 0.999)] * 1e3, 3),
        "random events, max, ms": round(times[-1] * 1e3, 3),
    }


def _sample() -> list[dict[str, Any]]:
    """Errors of many forms, without a file: the generator mutates them."""
    messages = (
        (
            "openai.RateLimitError",
            429,
            "rate_limit_exceeded",
            "Error code: 429 - {'error': {'message': 'Rate limit reached'}}",
        ),
        ("httpx.ReadTimeout", None, None, "timed out"),
        ("McpError", None, "-32001", "MCP error -32001: Request timed out"),
        (
            "pydantic_core._pydantic_core.ValidationError",
            None,
            "int_parsing",
            "1 validation error for M\nid\n  Input should be",
        ),
        ("HTTP body", 400, None, orjson.dumps({"error": {"message": "prompt is too long", "type": "x"}}).decode()),
    )
    return [
        {"exception_class": name, "http_status": status, "code": code, "message": text}
        for name, status, code, text in messages
    ]
