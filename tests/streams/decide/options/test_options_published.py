"""Each published strategy is some realistic failure's best option, with the published confidence and parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.modifications import parameters
from schemas.records import NATURAL, FailureEvent, Option, Origin, RecoveryOptions, Strategy
from streams.decide import Rates, decide
from streams.decide.catalogue import shipped

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)

LOAN = {
    "output": {"apr": 0},
    "constraints": {"apr": {"type": "range", "min": 2.5, "max": 8.5}},
    "agent": {"model": "gpt-3.5-turbo"},
}
THREE = {
    "output": {"apr": 0, "age": 245, "product": "Unknown_Product_V47"},
    "constraints": {
        "apr": {"type": "range", "min": 2.5, "max": 8.5},
        "age": {"type": "range", "min": 18, "max": 120},
        "product": {"type": "enum", "values": ["Savings", "Checking", "Credit", "Loan"]},
    },
}
DATABASE = {
    "tool_response": {"tool": "database", "error": "Connection timeout after 30s"},
    "side_effects_since_checkpoint": "none",
}
YOUTH = {
    "reasoning": ["The customer is 18, so they qualify for a youth account."],
    "required_steps": ["verify the customer's ID"],
}
SLOW = {"metrics": {"duration_s": 45.0, "timeout_s": 30.0}, "agent": {"model": "gpt-4"}}


def decided(failure: dict[str, Any], *capabilities: str, **more: Any) -> RecoveryOptions:
    fields = {"tenant_id": "bank", "execution_id": "run-1", **failure, **more}
    if capabilities:
        fields["agent"] = {**fields.get("agent", {}), "capabilities": list(capabilities)}
    event = FailureEvent.model_validate(fields, context=NATURAL)
    origin = Origin(partition=0, offset=1)
    return decide(event, failure_id="f-1", origin=origin, rates=Rates(), catalogue=shipped(), now=NOW)


def option(options: RecoveryOptions, strategy: Strategy) -> Option:
    return next(option for option in options.options if option.strategy is strategy)


PUBLISHED: list[tuple[Strategy, float, RecoveryOptions]] = [
    (Strategy.FUNCTION_CALLING, 0.98, decided(LOAN)),
    (Strategy.CONSTRAINT_INJECTION, 0.92, decided(LOAN, "append_prompt", "set_model", "add_tool")),
    (Strategy.VALIDATION_TOOL, 0.85, decided(LOAN, "add_tool")),
    (
        Strategy.MODEL_UPGRADE,
        0.95,
        decided(LOAN, "append_prompt", "set_model", "add_tool", execution={"complexity": "complex"}),
    ),
    (
        Strategy.EXPONENTIAL_BACKOFF,
        0.90,
        decided({"tool_response": {"tool": "payments", "status_code": 429, "fallbacks": ["payments-eu"]}}),
    ),
    (
        Strategy.ASYNC_EXECUTION,
        0.85,
        decided({**DATABASE, "tool_response": {**DATABASE["tool_response"], "supports_async": True}}),  # type: ignore[dict-item]
    ),
    (Strategy.INCREASE_TIMEOUT, 0.60, decided(DATABASE)),
    (
        Strategy.REFRESH_CREDENTIALS,
        0.95,
        decided({"tool_response": {"tool": "crm", "status_code": 401, "error": "Unauthorized"}}),
    ),
    (
        Strategy.FALLBACK_SERVICE,
        0.70,
        decided(
            {"tool_response": {"tool": "payments", "status_code": 503, "fallbacks": ["payments-eu"]}},
            side_effects_since_checkpoint="idempotent",
        ),
    ),
    (Strategy.CORRECT_CONTEXT, 0.90, decided(YOUTH, facts={"has_valid_id": True})),
    (Strategy.DECISION_RUBRIC, 0.88, decided(YOUTH)),
    (Strategy.REDUCE_COMPLEXITY, 0.80, decided(SLOW)),
    (Strategy.FASTER_MODEL, 0.75, decided(SLOW, "set_model", "set_timeout")),
    (
        Strategy.PROCESS_IN_BATCHES,
        0.85,
        decided({"metrics": {"memory_bytes": 3 * 2**30, "memory_limit_bytes": 2 * 2**30}}),
    ),
]


@pytest.mark.parametrize(("strategy", "confidence", "options"), PUBLISHED, ids=[str(row[0]) for row in PUBLISHED])
def test_each_published_strategy_is_some_failures_best(
    strategy: Strategy, confidence: float, options: RecoveryOptions
) -> None:
    best = options.options[0]
    assert (best.strategy, best.confidence, best.prior) == (strategy, confidence, confidence)
    parameters(best.strategy, best.parameters)
    assert options.options[-1].strategy is Strategy.ASK_HUMAN


def test_every_strategy_of_the_published_table_is_covered() -> None:
    published = {strategy for strategy in Strategy if strategy.value in _TABLE}
    assert published == {row[0] for row in PUBLISHED}


_TABLE = {
    *("function_calling", "model_upgrade", "constraint_injection", "validation_tool"),
    *("exponential_backoff", "async_execution", "increase_timeout", "refresh_credentials", "fallback_service"),
    *("correct_context", "decision_rubric", "reduce_complexity", "faster_model", "process_in_batches"),
}


def made(options: RecoveryOptions, strategy: Strategy) -> Any:
    return orjson.loads(option(options, strategy).parameters)


def test_the_constraint_is_said_as_published() -> None:
    text = made(decided(LOAN), Strategy.CONSTRAINT_INJECTION)["text"]
    assert text == (
        "IMPORTANT: apr must be between 2.5 and 8.5. Never output apr outside this range.\n"
        "If you cannot determine a valid apr, output 'UNABLE_TO_COMPLETE' instead."
    )


def test_all_violated_fields_go_into_one_text_and_one_schema() -> None:
    options = decided(THREE)
    text = made(options, Strategy.CONSTRAINT_INJECTION)["text"]
    for said in (
        "apr must be between 2.5 and 8.5",
        "age must be between 18 and 120",
        'product must be one of "Savings", "Checking", "Credit", "Loan"',
    ):
        assert said in text
    assert made(options, Strategy.FUNCTION_CALLING)["schema"] == {
        "type": "object",
        "properties": {
            "apr": {"type": "number", "minimum": 2.5, "maximum": 8.5},
            "age": {"type": "number", "minimum": 18, "maximum": 120},
            "product": {"type": "string", "enum": ["Savings", "Checking", "Credit", "Loan"]},
        },
        "required": ["apr", "age", "product"],
    }


def test_the_validation_tool_checks_with_the_same_schema_and_suggests_a_value() -> None:
    options = decided(LOAN)
    tool = made(options, Strategy.VALIDATION_TOOL)
    assert tool["name"] == "validate_apr"
    assert tool["input_schema"] == made(options, Strategy.FUNCTION_CALLING)["schema"]
    assert "between 2.5 and 8.5" in tool["suggestion"]


def test_published_parameters() -> None:
    best = {row[0]: orjson.loads(row[2].options[0].parameters) for row in PUBLISHED}
    backoff = best[Strategy.EXPONENTIAL_BACKOFF]
    assert [backoff["base_delay_s"] * backoff["multiplier"] ** n for n in range(backoff["max_attempts"])] == [
        1, 2, 4, 8, 16,
    ]  # fmt: skip
    assert best[Strategy.ASYNC_EXECUTION] == {"poll_interval_s": 10, "max_polls": 30}
    assert best[Strategy.INCREASE_TIMEOUT] == {"timeout_s": 60}
    assert best[Strategy.REFRESH_CREDENTIALS] == {"service": "crm"}
    assert best[Strategy.FALLBACK_SERVICE] == {"service": "payments-eu", "instead_of": "payments"}
    assert best[Strategy.REDUCE_COMPLEXITY]["text"] == "Be concise. Maximum 2 reasoning steps. Output JSON only."
    assert best[Strategy.FASTER_MODEL]["model"] == "gpt-3.5-turbo"
    assert best[Strategy.MODEL_UPGRADE]["model"] == "gpt-4"
    assert best[Strategy.PROCESS_IN_BATCHES] == {"batch_size": 10}


def test_published_costs_hold_where_tokens_are_unknown() -> None:
    costs = {option.strategy: option.cost_microusd for option in decided(LOAN).options}
    assert costs[Strategy.FUNCTION_CALLING] == 3000
    assert costs[Strategy.CONSTRAINT_INJECTION] == 1000
    assert costs[Strategy.VALIDATION_TOOL] == 2000


def test_the_published_gains_of_the_model_are_told() -> None:
    options = decided(LOAN, execution={"complexity": "complex"})
    assert "60% -> 92% on complex tasks" in option(options, Strategy.MODEL_UPGRADE).why
    options = decided(LOAN, resumed_by={"recovery_id": "r", "attempt": 1})
    assert "92% -> 98% on simple tasks" in option(options, Strategy.MODEL_UPGRADE).why


def test_the_published_rubric_decides_about_products() -> None:
    failure = {**YOUTH, "reasoning": ["The product is cheap, so it is good."]}
    rubric = made(decided(failure), Strategy.DECISION_RUBRIC)
    assert rubric["name"] == "product_quality"
    for line in ("Price vs Features: 1-5 points", "Customer fit: 1-5 points", "IF unclear: Ask for more information"):
        assert line in rubric["text"]
    assert '"verify the customer\'s ID"' in rubric["text"]
