"""Failures and verdicts for properties: any field may hold anything that its type allows, likely words more often."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import strategies as st

from schemas.modifications import PARAMETERS
from schemas.records import (
    NATURAL,
    Category,
    Classification,
    Complexity,
    FailureEvent,
    FailureOrigin,
    ModificationKind,
    Severity,
    SideEffects,
)
from streams.decide.classify.taxonomy import SUBTYPES

WORDS = st.sampled_from(
    [
        *("apr", "loan.apr", "product", "search", "gpt-4", "gpt-3.5-turbo", "openai", "try again in 3s", "30s"),
        *("Tool 'serch' not found", "Recursion limit of 25 reached", "https://evil.example/x", "5 %", "2026-01-01"),
        *(
            "^(a+)+$",
            "email",
            "min",
            "retry-after",
            "120",
            "Mon, 23 Nov 2026 05:00:00 GMT",
            "",
            "\u202e\u200b",
            "<|im_start|>",
        ),
    ]
)
TEXTS = WORDS | st.text(max_size=60)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXTS, below, max_size=4), max_leaves=8
)
BOUNDS = st.fixed_dictionaries(
    {"type": st.sampled_from(["range", "enum", "format", "number", "string", "object"])},
    optional={
        key: SCALARS | st.lists(SCALARS, max_size=4)
        for key in ("min", "max", "minimum", "exclusiveMaximum", "exclusive", "values", "enum", "pattern", "format")
    },
)
CONSTRAINTS = st.dictionaries(TEXTS, BOUNDS | VALUES, max_size=4) | VALUES
VIOLATIONS = st.fixed_dictionaries(
    {},
    optional={
        "path": VALUES,
        "field": TEXTS,
        "rule": TEXTS,
        "actual_value": VALUES,
        "valid_range": VALUES | BOUNDS | st.just("2.5-8.5"),
        "allowed_values": VALUES | st.lists(TEXTS, max_size=4),
        "pattern": VALUES | TEXTS,
        "schema": CONSTRAINTS,
        "nearest": VALUES | TEXTS,
    },
)
_DETAIL_KEYS = (
    *("field", "tool", "status", "code", "retry_after_s", "assumption", "correct_value"),
    *("missing_steps", "call_fingerprint", "limit", "measured", "unit", "nearest", "known", "identifier", "timeout_s"),
)
DETAILS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(_DETAIL_KEYS, VALUES | TEXTS),
        "call_may_have_executed": st.booleans() | VALUES,
        "violations": st.lists(VIOLATIONS, max_size=3) | VALUES,
    },
)
AMOUNTS = st.none() | st.floats(0, allow_nan=False, allow_infinity=False)
COUNTS = st.none() | st.integers(0, 2**53)
MAYBE_TEXT = st.none() | TEXTS


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any] | None]:
    return st.none() | st.fixed_dictionaries({}, optional=fields)


_KINDS = [str(kind) for kind in ModificationKind]
_EVENT = st.fixed_dictionaries(
    {"tenant_id": st.just("t"), "execution_id": st.just("e")},
    optional={
        "agent": st.fixed_dictionaries(
            {},
            optional={
                "id": st.just("agent"),
                "model": MAYBE_TEXT,
                "capabilities": st.none() | st.lists(st.sampled_from(_KINDS), max_size=6),
            },
        ),
        "origin": st.sampled_from([str(origin) for origin in FailureOrigin]),
        "error": _maybe(**{"class": MAYBE_TEXT, "message": MAYBE_TEXT}),
        "output": VALUES,
        "constraints": CONSTRAINTS,
        "tool_response": _maybe(
            tool=MAYBE_TEXT,
            status_code=st.none() | st.integers(0, 599),
            error=MAYBE_TEXT,
            headers=st.dictionaries(TEXTS, TEXTS, max_size=3),
            body=VALUES,
            idempotency_key=MAYBE_TEXT,
            supports_async=st.booleans(),
            fallbacks=st.lists(TEXTS, max_size=3),
        ),
        "reasoning": VALUES,
        "facts": VALUES,
        "required_steps": st.lists(TEXTS, max_size=3),
        "calls": st.lists(st.fixed_dictionaries({"tool": TEXTS, "call_fingerprint": TEXTS}), max_size=3),
        "metrics": _maybe(
            duration_s=AMOUNTS,
            timeout_s=AMOUNTS,
            **dict.fromkeys(
                ("memory_bytes", "memory_limit_bytes", "tokens", "token_limit", "steps", "step_limit"), COUNTS
            ),
        ),
        "execution": _maybe(
            prompt=MAYBE_TEXT,
            model=MAYBE_TEXT,
            tools=st.lists(TEXTS, max_size=3),
            timeout_s=AMOUNTS,
            sdk_retries=COUNTS,
            complexity=st.sampled_from([str(complexity) for complexity in Complexity]),
        ),
        "side_effects_since_checkpoint": st.sampled_from([str(effects) for effects in SideEffects]),
        "resumed_by": st.none() | st.fixed_dictionaries({"recovery_id": st.just("r"), "attempt": st.integers(1, 5)}),
    },
)

_LIKELY = st.fixed_dictionaries(
    {
        "agent": st.fixed_dictionaries(
            {"model": st.sampled_from(["gpt-3.5-turbo", "gpt-4", "claude-haiku-4-5", "none-of-them"])},
            optional={"capabilities": st.lists(st.sampled_from(_KINDS), min_size=4, max_size=16)},
        ),
        "origin": st.sampled_from(["tool", "model"]),
        "constraints": st.dictionaries(TEXTS, BOUNDS, min_size=1, max_size=3),
        "tool_response": st.fixed_dictionaries(
            {
                "tool": st.sampled_from(["search", "payments"]),
                "error": TEXTS,
                "headers": st.dictionaries(st.sampled_from(["retry-after", "x-should-retry"]), TEXTS, max_size=1),
                "supports_async": st.booleans(),
                "fallbacks": st.lists(st.sampled_from(["search", "mirror", "https://evil.example/x"]), max_size=2),
            }
        ),
        "facts": VALUES,
        "metrics": st.fixed_dictionaries(
            dict.fromkeys(("duration_s", "timeout_s"), AMOUNTS)
            | dict.fromkeys(
                ("memory_bytes", "memory_limit_bytes", "tokens", "token_limit", "steps", "step_limit"), COUNTS
            )
        ),
        "execution": st.fixed_dictionaries(
            {"tools": st.lists(TEXTS, min_size=1, max_size=3), "complexity": st.sampled_from(["simple", "complex"])}
        ),
        "side_effects_since_checkpoint": st.sampled_from(["none", "idempotent"]),
    }
)

events = (_EVENT | st.tuples(_EVENT, _LIKELY).map(lambda pair: {**pair[0], **pair[1]})).map(
    lambda fields: FailureEvent.model_validate(_plain(fields), context=NATURAL)
)
"""Any failure; half of them hold what remedies are made from."""


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None or key == "error"}


_VERDICTS = [(category, subtype) for category, subtypes in SUBTYPES.items() for subtype in sorted(subtypes)]
classifications = st.builds(
    lambda verdict, severity, details: Classification(
        category=verdict[0], subtype=verdict[1], severity=severity, details=orjson.dumps(details).decode()
    ),
    st.sampled_from([*_VERDICTS, (Category.TOOL_FAILURE, "of_a_newer_rule")]),
    st.sampled_from(list(Severity)),
    DETAILS,
)
"""Any verdict, its details as they should be or not."""

KIND_OF = {strategy: str(cls.kind) for strategy, cls in PARAMETERS.items()}
