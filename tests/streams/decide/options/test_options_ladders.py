"""What is offered for which failure, and what is not: what cannot help, what the agent cannot do, what is unsafe."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from schemas.modifications import PARAMETERS
from schemas.records import NATURAL, Category, Classification, FailureEvent, Option, Strategy
from streams.decide import Rates
from streams.decide.catalogue import NO_LADDER, shipped
from streams.decide.classify.taxonomy import SUBTYPES
from streams.decide.options import GENERATORS, options

CATALOGUE = shipped()


def offered(category: Category, subtype: str, details: Any = None, **fields: Any) -> dict[Strategy, Option]:
    failure = {"tenant_id": "t", "execution_id": "e", "side_effects_since_checkpoint": "none", **fields}
    event = FailureEvent.model_validate(failure, context=NATURAL)
    verdict = Classification(category=category, subtype=subtype, details=orjson.dumps(details or {}).decode())
    return {option.strategy: option for option in options(event, verdict, CATALOGUE, Rates())}


def tool(subtype: str, details: Any = None, *, response: Any = None, **fields: Any) -> dict[Strategy, Option]:
    return offered(Category.TOOL_FAILURE, subtype, details, tool_response={"tool": "api", **(response or {})}, **fields)


def logic(subtype: str, details: Any = None, **fields: Any) -> dict[Strategy, Option]:
    return offered(Category.LOGICAL_ERROR, subtype, details, **fields)


def slow(subtype: str, details: Any = None, **fields: Any) -> dict[Strategy, Option]:
    return offered(Category.PERFORMANCE, subtype, details, **fields)


def made(option: Option) -> Any:
    return orjson.loads(option.parameters)


RICH: dict[str, Any] = {
    "agent": {"model": "gpt-4"},
    "constraints": {"apr": {"type": "range", "min": 2.5, "max": 8.5}},
    "tool_response": {
        "tool": "serch",
        "error": "Unknown tool 'serch'",
        "supports_async": True,
        "fallbacks": ["mirror"],
    },
    "facts": {"age": 18},
    "execution": {"tools": ["search"]},
    "metrics": {"step_limit": 25, "steps": 25, "tokens": 20000, "token_limit": 16385},
}


@pytest.mark.parametrize(
    ("category", "subtype"),
    [(c, s) for c, subtypes in SUBTYPES.items() for s in sorted(subtypes) if c not in NO_LADDER],
)
def test_every_subtype_has_a_ladder_whose_every_rung_some_evidence_reaches(category: Category, subtype: str) -> None:
    ladder = set(CATALOGUE.ladder(category, subtype))
    rungs = offered(category, subtype, {"identifier": "serch", "known": ["search"]}, **RICH)
    assert set(rungs) == ladder | {Strategy.ASK_HUMAN}
    if subtype != "runtime_error":
        assert ladder


def test_every_strategy_has_a_generator_and_some_ladder_uses_it() -> None:
    automatic = set(Strategy) - {Strategy.UNKNOWN, Strategy.ASK_HUMAN}
    assert set(GENERATORS) == set(PARAMETERS) == automatic
    used = {rung for ladders in CATALOGUE.ladders.values() for ladder in ladders.values() for rung in ladder}
    assert used == automatic


def test_what_is_no_failure_has_no_options() -> None:
    assert offered(Category.NONE, "control_flow") == {}


def test_what_is_not_understood_goes_to_a_person() -> None:
    assert list(offered(Category.UNCLASSIFIED, "unknown", **RICH)) == [Strategy.ASK_HUMAN]
    assert list(tool("of_a_newer_rule")) == [Strategy.ASK_HUMAN]


def test_an_unknown_tool_failure_is_tried_once_where_that_is_safe() -> None:
    assert list(tool("unknown")) == [Strategy.RETRY_ONCE, Strategy.ASK_HUMAN]
    assert list(tool("unknown", side_effects_since_checkpoint="unknown")) == [Strategy.ASK_HUMAN]


def test_waiting_and_repeating_are_not_offered_where_they_cannot_help() -> None:
    repeats = {Strategy.EXPONENTIAL_BACKOFF, Strategy.RETRY_ONCE}
    for subtype in ("quota_exhausted", "invalid_request", "auth_error", "content_policy", "not_found"):
        assert not repeats & set(tool(subtype, **{k: v for k, v in RICH.items() if k != "tool_response"}))
    assert Strategy.MODEL_UPGRADE not in tool("service_unavailable", agent={"model": "gpt-3.5-turbo"})


@pytest.mark.parametrize("subtype", ["timeout", "service_unavailable", "retries_exhausted", "bad_response", "unknown"])
def test_a_call_that_may_have_had_its_effect_is_not_repeated_blindly(subtype: str) -> None:
    response = {"fallbacks": ["mirror"], "supports_async": True}
    blind = tool(subtype, response=response, side_effects_since_checkpoint="unknown")
    assert list(blind) == [Strategy.ASK_HUMAN]
    assert "may have had its effect" in blind[Strategy.ASK_HUMAN].why
    assert (
        len(tool(subtype, response={**response, "idempotency_key": "k"}, side_effects_since_checkpoint="unknown")) > 1
    )
    for effects in ("none", "idempotent"):
        assert len(tool(subtype, response=response, side_effects_since_checkpoint=effects)) > 1


def test_a_call_that_did_not_happen_may_be_repeated() -> None:
    unknown = {"side_effects_since_checkpoint": "unknown"}
    assert Strategy.EXPONENTIAL_BACKOFF in tool("rate_limit", **unknown)
    assert Strategy.REFRESH_CREDENTIALS in tool("auth_error", **unknown)
    refused = {"call_may_have_executed": False}
    assert Strategy.EXPONENTIAL_BACKOFF in tool("network_error", refused, **unknown)
    assert list(tool("network_error", {"call_may_have_executed": True}, **unknown)) == [Strategy.ASK_HUMAN]


def test_a_models_own_api_has_no_side_effects() -> None:
    assert Strategy.EXPONENTIAL_BACKOFF in tool(
        "service_unavailable", origin="model", side_effects_since_checkpoint="unknown"
    )


def test_nothing_runs_again_after_unsafe_side_effects() -> None:
    for category, subtype in ((Category.HALLUCINATION, "range_violation"), (Category.TOOL_FAILURE, "rate_limit")):
        rungs = offered(category, subtype, **{**RICH, "side_effects_since_checkpoint": "unsafe"})
        assert list(rungs) == [Strategy.ASK_HUMAN]


def test_only_what_the_agent_can_honour_is_offered() -> None:
    rungs = offered(Category.HALLUCINATION, "range_violation", **{**RICH, "agent": {"capabilities": ["add_tool"]}})
    assert list(rungs) == [Strategy.VALIDATION_TOOL, Strategy.ASK_HUMAN]
    assert list(tool("rate_limit", agent={"capabilities": []})) == [Strategy.ASK_HUMAN]


def test_the_model_is_upgraded_first_only_where_it_is_the_bottleneck() -> None:
    def upgrade(**fields: Any) -> Option:
        model = {"agent": {"model": "gpt-3.5-turbo"}}
        return offered(Category.HALLUCINATION, "range_violation", **model, **fields)[Strategy.MODEL_UPGRADE]

    assert upgrade().confidence < 0.85
    assert upgrade(execution={"complexity": "simple"}).confidence < 0.85
    assert upgrade(execution={"complexity": "complex"}).confidence == 0.95
    assert upgrade(resumed_by={"recovery_id": "r", "attempt": 1}).confidence == 0.95


def test_no_model_is_offered_that_the_catalogue_does_not_know() -> None:
    assert Strategy.MODEL_UPGRADE not in offered(Category.HALLUCINATION, "range_violation", agent={"model": "mine"})
    assert Strategy.FASTER_MODEL not in slow("timeout", agent={"model": "gpt-3.5-turbo"})


def test_a_larger_window_holds_what_was_needed() -> None:
    def larger(model: str, tokens: int) -> str | None:
        rungs = slow("token_limit_exceeded", agent={"model": model}, metrics={"tokens": tokens})
        option = rungs.get(Strategy.LARGER_CONTEXT_MODEL)
        return None if option is None else str(made(option)["model"])

    assert larger("gpt-3.5-turbo", 20_000) == "gpt-4o-mini"
    assert larger("gpt-3.5-turbo", 200_000) == "gpt-4.1-mini"
    assert larger("gpt-3.5-turbo", 5_000_000) is None
    assert larger("gemini-2.5-pro", 2_000_000) is None


def test_the_fallback_is_the_tools_own_first_and_never_an_address() -> None:
    def fallback(*names: str) -> str | None:
        option = tool("service_unavailable", response={"fallbacks": list(names)}).get(Strategy.FALLBACK_SERVICE)
        return None if option is None else str(made(option)["service"])

    assert fallback("api", "mirror") == "mirror"
    assert fallback("https://evil.example/x", "//evil", "mirror") == "mirror"
    assert fallback("api") is None
    assert fallback() is None


def test_the_timeout_follows_what_was_allowed_and_observed() -> None:
    def extended(rungs: dict[Strategy, Option]) -> float | None:
        option = rungs.get(Strategy.INCREASE_TIMEOUT)
        return None if option is None else float(made(option)["timeout_s"])

    assert extended(slow("timeout")) == 60
    assert extended(slow("timeout", metrics={"timeout_s": 30.0, "duration_s": 30.1})) == 60
    assert extended(slow("timeout", metrics={"timeout_s": 30.0, "duration_s": 100.0})) == 150
    assert extended(slow("timeout", metrics={"timeout_s": 800.0})) == 900
    assert extended(slow("timeout", metrics={"timeout_s": 900.0})) is None
    call = {"error": "Read timed out. (read timeout=5)"}
    assert extended(tool("timeout", response=call, metrics={"timeout_s": 300.0, "duration_s": 200.0})) == 10


@pytest.mark.parametrize(
    ("used", "allowed", "size"), [(3, 2, 10), (5, 4, 10), (6, 2, 5), (30, 2, 1), (3000, 2, 1), (None, 2, 10)]
)
def test_batches_shrink_with_the_overshoot(used: int | None, allowed: int, size: int) -> None:
    rungs = slow("out_of_memory", metrics={"memory_bytes": used, "memory_limit_bytes": allowed})
    assert made(rungs[Strategy.PROCESS_IN_BATCHES]) == {"batch_size": size}


def test_a_wrong_name_becomes_the_closest_that_exists() -> None:
    def corrected(error: str) -> Any:
        rungs = offered(
            Category.HALLUCINATION,
            "unknown_tool",
            error={"message": error},
            execution={"tools": ["get_weather", "search"]},
        )
        return made(rungs[Strategy.CORRECT_IDENTIFIER])

    near = corrected("Tool get_wether not found in agent Assistant")
    assert (near["wrong"], near["right"]) == ("get_wether", "get_weather")
    far = corrected("Function show_tables not found")
    assert "right" not in far
    assert far["known"] == ["get_weather", "search"]


def test_a_model_that_does_not_exist_becomes_one_that_does() -> None:
    failure = {"execution": {"model": "gpt-4o-minni"}, "origin": "model"}
    option = offered(Category.TOOL_FAILURE, "not_found", **failure)[Strategy.CORRECT_IDENTIFIER]
    assert made(option)["right"] == "gpt-4o-mini"


def test_a_loop_is_broken_and_more_steps_are_only_for_runs_that_do_not_repeat() -> None:
    repeated = logic("loop", {"tool": "search", "call_fingerprint": "abc"}, metrics={"step_limit": 25, "steps": 25})
    assert made(repeated[Strategy.BREAK_LOOP])["call_fingerprint"] == "abc"
    assert Strategy.EXTEND_STEP_LIMIT not in repeated
    for failure in (
        {"metrics": {"step_limit": 25, "steps": 25}},
        {"error": {"message": "Recursion limit of 25 reached without hitting a stop condition."}},
    ):
        assert made(logic("loop", **failure)[Strategy.EXTEND_STEP_LIMIT]) == {"step_limit": 50}
    assert made(logic("loop", error={"message": "Max turns (10) exceeded"})[Strategy.EXTEND_STEP_LIMIT]) == {
        "step_limit": 20
    }
    assert Strategy.EXTEND_STEP_LIMIT not in logic("loop", metrics={"step_limit": 200, "steps": 200})


def test_facts_correct_the_assumption_that_was_wrong() -> None:
    details = {"assumption": {"age": 21}, "correct_value": 18}
    option = logic("incorrect_assumption", details, facts={"has_id": True, "age": 18})[Strategy.CORRECT_CONTEXT]
    assert made(option)["facts"] == {"age": 18, "has_id": True}
    assert "You assumed age = 21." in made(option)["text"]
    assert Strategy.CORRECT_CONTEXT not in logic("wrong_conclusion")


def test_nested_and_optional_fields_are_nested_and_optional_in_the_schema() -> None:
    constraints = {
        "loan.apr": {"type": "range", "min": 2.5},
        "loan.note": {"type": "format", "pattern": "[a-z]+", "required": False},
        "odd field!": {"type": "enum", "values": [1, "a"]},
        "items.*.price": {"type": "range", "min": 1},
    }
    rungs = offered(Category.HALLUCINATION, "format_violation", constraints=constraints)
    assert made(rungs[Strategy.FUNCTION_CALLING])["schema"] == {
        "type": "object",
        "properties": {
            "loan": {
                "type": "object",
                "properties": {
                    "apr": {"type": "number", "minimum": 2.5},
                    "note": {"type": "string", "pattern": "^(?:[a-z]+)$"},
                },
                "required": ["apr"],
            },
            "odd field!": {"enum": [1, "a"]},
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"price": {"type": "number", "minimum": 1}},
                    "required": ["price"],
                },
            },
        },
        "required": ["loan", "odd field!", "items"],
    }


@pytest.mark.parametrize(
    ("violation", "said"),
    [
        (
            {"rule": "range", "valid_range": {"min": 1, "exclusive_max": 2}},
            "f must be at least 1 and less than 2. Never",
        ),
        ({"rule": "range", "valid_range": "2.5-8.5"}, "f must be between 2.5 and 8.5."),
        ({"rule": "range", "valid_range": {"min": "2026-01-01"}}, 'f must be at least "2026-01-01".'),
        ({"rule": "minLength", "valid_range": {"min_length": 3}}, "f must be at least 3 characters long."),
        ({"rule": "maxItems", "valid_range": {"max_items": 3}}, "f must be a list of at most 3 items."),
        ({"rule": "multipleOf", "valid_range": {"multiple_of": 5}}, "f must be a multiple of 5."),
        ({"rule": "enum", "allowed_values": ["a", 1]}, 'f must be one of "a", 1.'),
        ({"rule": "pattern", "pattern": "[a-z]+"}, 'f must match the pattern "[a-z]+" in full.'),
        ({"rule": "type", "schema": {"type": "integer"}}, 'f must fit the schema "{\\"type\\":\\"integer\\"}".'),
        ({"rule": "required", "valid_range": {"min": 1, "max": 2}}, "f must be given, and must be between 1 and 2."),
        ({"rule": "required"}, "f must be given, and must be valid."),
        ({"rule": "additionalProperties"}, "f must not be in the output."),
        ({"rule": "json_in_prose", "path": ""}, "the output must be one JSON value in the required form."),
        ({"rule": "cross_field", "cross_field": "end > start"}, 'the output must fulfil the rule "end > start".'),
    ],
)
def test_every_kind_of_violation_is_said_in_words(violation: Any, said: str) -> None:
    details = {"violations": [{"path": "f", **violation}]}
    rungs = offered(Category.HALLUCINATION, "format_violation", details)
    assert f"IMPORTANT: {said}" in made(rungs[Strategy.CONSTRAINT_INJECTION])["text"]


def test_many_items_of_a_list_are_said_once() -> None:
    items = [{"path": f"items.{n}.price", "rule": "range", "valid_range": {"min": 1}} for n in range(30)]
    rungs = offered(Category.HALLUCINATION, "range_violation", {"violations": items})
    assert made(rungs[Strategy.CONSTRAINT_INJECTION])["text"].count("IMPORTANT") == 1


def test_cost_and_time_follow_tokens_prices_and_durations_where_they_are_known() -> None:
    known = {"agent": {"model": "gpt-3.5-turbo"}, "metrics": {"tokens": 1_000_000, "duration_s": 8.0}}
    rungs = offered(
        Category.HALLUCINATION, "range_violation", constraints={"apr": {"type": "range", "min": 1}}, **known
    )
    # 750,000 tokens read at $0.50 and 250,000 written at $1.50 a million; gpt-4: $30 and $60.
    assert rungs[Strategy.FUNCTION_CALLING].cost_microusd == pytest.approx(750_000, rel=0.001)
    assert rungs[Strategy.VALIDATION_TOOL].cost_microusd == pytest.approx(1_500_000, rel=0.001)
    assert rungs[Strategy.MODEL_UPGRADE].cost_microusd == 37_500_000
    assert rungs[Strategy.FUNCTION_CALLING].latency_s == 8
    assert rungs[Strategy.VALIDATION_TOOL].latency_s == 16
    assert tool("rate_limit", **known)[Strategy.EXPONENTIAL_BACKOFF].cost_microusd == 0


def test_a_person_is_told_what_to_decide() -> None:
    assert "Top up the account" in tool("quota_exhausted")[Strategy.ASK_HUMAN].why
    assert "the same code fails again" in logic("runtime_error")[Strategy.ASK_HUMAN].why


@pytest.mark.parametrize(
    ("category", "subtype", "message", "best", "said"),
    [
        (
            Category.HALLUCINATION,
            "enum_violation",
            "'urgent' is not one of ['low', 'high']",
            "constraint_injection",
            "'low'",
        ),
        (Category.HALLUCINATION, "format_violation", "'id' is a required property", "constraint_injection", "'id'"),
        (
            Category.HALLUCINATION,
            "unknown_tool",
            "Function show_tables not found",
            "constraint_injection",
            "show_tables",
        ),
        (Category.HALLUCINATION, "unknown_identifier", "no such column: nmae", "repair_arguments", "nmae"),
        (Category.TOOL_FAILURE, "invalid_request", "max_tokens must be positive", "repair_arguments", "max_tokens"),
    ],
)
def test_a_failure_known_by_its_message_alone_still_has_a_remedy(
    category: Category, subtype: str, message: str, best: str, said: str
) -> None:
    first = next(iter(offered(category, subtype, error={"message": message}).values()))
    assert first.strategy == best
    assert said in made(first)["text"]
