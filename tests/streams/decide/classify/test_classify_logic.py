"""Reasoning against what is known: what can be shown to be wrong, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from classify_events import details, error, event, said, tool

from schemas.records import ToolCall
from streams.decide.classify import classify
from streams.decide.classify.logic import Claim, Judgement, unverified_claims

FACTS = {"age": 17, "has_id": False, "status": "active", "balance": 50_000, "joined": "2026-01-05"}


@pytest.mark.parametrize(
    "reasoning",
    [
        [{"step": 1, "assumption": {"age": 18}}],
        [{"assumptions": [{"name": "age", "value": 18}]}],
        [{"assumption": "age is 18"}],
        [{"assumption": "has_id"}],
        "The customer's age is 18, so they qualify for the youth account.",
        ["First, balance = $40,000.", "Then recommend."],
        "They have has_id = true.",
        [{"thought": "status: suspended"}],
        "joined is 2025-01-05",
    ],
)
def test_an_assumption_that_the_facts_contradict(reasoning: Any) -> None:
    verdict = classify(event(reasoning=reasoning, facts=FACTS, conclusion="qualifies"))
    assert (verdict.category, verdict.subtype) == ("logical_error", "incorrect_assumption")
    found = details(verdict)
    assert found["correct_value"] in FACTS.values()
    assert found["consequence"] == "qualifies"


@pytest.mark.parametrize(
    "reasoning",
    [
        [{"assumption": {"age": "17 years", "status": "Active"}}],
        "age is at least 16",
        "The age is not 18.",
        "age is over 12",
        "The age is unknown.",
        "The credit score is 3.",
        "status is checked later",
        "The balance is sufficient for this product.",
        [{"assumption": {"income": 5}}],
        [{"assumption": "the customer likes blue"}],
        "joined is recently",
        {},
        [[[[]]]],
        None,
        5,
    ],
)
def test_what_cannot_be_verified_is_no_error(reasoning: Any) -> None:
    assert said(event(reasoning=reasoning, facts=FACTS)) == "unclassified/unknown"


@pytest.mark.parametrize(
    ("conclusion", "expected", "wrong"),
    [
        ("approve", {"correct_conclusion": "deny"}, True),
        ("Approve ", {"correct_conclusion": "approve"}, False),
        ("5.0", {"correct_conclusion": 5}, False),
        (True, {"correct_conclusion": "yes"}, False),
        (True, {"correct_conclusion": "no"}, True),
        ("Recommend the Savings account", {"correct_conclusion": "savings account"}, False),
        ("Do not recommend the savings account", {"correct_conclusion": "recommend the savings account"}, True),
        ({"decision": "approve", "why": "x"}, {"decision": "Approve"}, False),
        ({"decision": "approve"}, {"decision": "deny"}, True),
        ("approve", {"decision": "deny"}, False),  # not comparable
        ("Product is good", {"correct_conclusion": "Product is poor value"}, True),
        ("x", {"correct_conclusion": None}, False),
    ],
)
def test_conclusions(conclusion: Any, expected: Any, wrong: bool) -> None:
    given = event(conclusion=conclusion, expected_output=expected)
    assert said(given) == ("logical_error/wrong_conclusion" if wrong else "unclassified/unknown")


def test_a_wrong_conclusion_says_what_was_right() -> None:
    found = details(classify(event(conclusion="yes", expected_output={"correct_conclusion": "no"})))
    assert (found["agent_conclusion"], found["correct_conclusion"]) == ("yes", "no")
    assert found["reasoning_gap"]


def test_required_steps_and_factors() -> None:
    steps = ("verify government ID", "check_balance")
    missing = event(reasoning="Age is 18, so they qualify for a youth account.", required_steps=steps)
    verdict = classify(missing)
    assert (verdict.subtype, details(verdict)["missing_steps"]) == ("missing_step", list(steps))
    taken = "I verified the government ID. Then I checked the balance."
    assert said(event(reasoning=taken, required_steps=steps)) == "unclassified/unknown"
    cheap = event(
        reasoning="Product is cheap, so it is good.",
        expected_output={"required_factors": ["features", "price"]},
    )
    assert said(cheap) == "logical_error/incomplete_analysis"


def test_a_step_may_have_been_a_tool_call() -> None:
    call = (ToolCall(tool="verify_id", call_fingerprint="1"),)
    given = event(reasoning="They qualify.", required_steps=("verify_id",), calls=call)
    assert said(given) == "unclassified/unknown"


def test_the_cause_of_a_wrong_conclusion_comes_first() -> None:
    given = event(
        reasoning=[{"assumption": {"age": 18}}],
        facts=FACTS,
        conclusion="qualifies",
        expected_output={"correct_conclusion": "does not qualify"},
        required_steps=("verify ID",),
    )
    verdict = classify(given)
    assert verdict.subtype == "incorrect_assumption"
    assert details(verdict)["missing_steps"] == ["verify ID"]
    assert details(verdict)["correct_conclusion"] == "does not qualify"


def calls(prints: str, succeeded: bool = True) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(tool=f"tool_{one}", call_fingerprint=one, succeeded=succeeded) for one in prints)


@pytest.mark.parametrize(
    ("prints", "looping"),
    [
        ("aaa", True),
        ("xyaaa", True),
        ("ababab", True),
        ("abcabcabc", True),
        ("aa", False),
        ("abab", False),
        ("aaab", False),  # it stopped
        ("abacadae", False),  # a lookup between other calls
        ("aabaaxaaya", True),
        ("", False),
    ],
)
def test_loops_are_cycles_of_equal_calls_even_if_they_succeed(prints: str, looping: bool) -> None:
    assert (said(event(calls=calls(prints))) == "logical_error/loop") is looping


def test_retries_of_a_failing_tool_are_no_loop() -> None:
    failing = tool(429).model_copy(update={"calls": calls("aaaa", succeeded=False)})
    assert said(failing) == "tool_failure/rate_limit"


def test_a_bug_does_not_hide_a_loop() -> None:
    assert said(error("boom", "ValueError").model_copy(update={"calls": calls("aaaa")})) == "logical_error/loop"


def test_a_verifier_judges_what_no_fact_decides() -> None:
    given = event(reasoning=[{"assumption": "the customer likes blue"}, {"assumption": {"age": 17}}], facts=FACTS)
    claims = unverified_claims(given)
    assert [claim.text for claim in claims] == ["the customer likes blue"]
    verdict = classify(given, None, [Judgement(claims[0], holds=False, correct_value="green", confidence=0.8)])
    assert (verdict.subtype, verdict.confidence) == ("incorrect_assumption", 0.8)
    unsure = [Judgement(claims[0], holds=None), Judgement(Claim("x"), holds=True)]
    assert classify(given, None, unsure).subtype == "unknown"
