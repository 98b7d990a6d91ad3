"""Outputs against constraints: every violation with its path, and no false alarm."""

from __future__ import annotations

from typing import Any

import pytest
from classify_events import broken, details, event, said, tool
from hypothesis import given
from hypothesis import strategies as st

from streams.decide.classify import classify

APR = {"apr": {"type": "range", "min": 2.5, "max": 8.5}}
PRODUCTS = ["Savings", "Checking", "Credit", "Loan"]


@pytest.mark.parametrize(
    ("output", "constraints", "verdict"),
    [
        ({"apr": 0}, APR, "range_violation"),
        ({"age": 245}, {"age": {"type": "range", "min": 18, "max": 120}}, "range_violation"),
        ({"product": "Unknown_Product_V47"}, {"product": {"type": "enum", "values": PRODUCTS}}, "enum_violation"),
        ({"zip": "1234"}, {"zip": {"type": "format", "pattern": r"\d{5}"}}, "format_violation"),
    ],
)
def test_the_published_examples(output: Any, constraints: Any, verdict: str) -> None:
    assert said(event(output=output, constraints=constraints)) == f"hallucination/{verdict}"


@pytest.mark.parametrize("name", ["²", "٣", "0", "x.²"])
def test_a_digit_of_another_script_is_no_place_in_a_list(name: str) -> None:
    assert said(event(output=[], constraints={name: {"type": "range", "min": 1}})) == "hallucination/format_violation"


def test_the_details_name_the_value_and_what_would_have_been_allowed() -> None:
    constraints = {**APR, "product": {"type": "enum", "values": PRODUCTS}}
    verdict = classify(event(output={"apr": 0, "product": "savings "}, constraints=constraints))
    found = details(verdict)
    assert (found["field"], found["actual_value"], found["valid_range"], found["severity"]) == (
        "apr",
        0,
        {"min": 2.5, "max": 8.5},
        "high",
    )
    assert [violation["field"] for violation in found["violations"]] == ["apr", "product"]
    assert found["violations"][1]["nearest"] == "Savings"
    assert verdict.severity == "high"
    assert "2.5" in verdict.explanation


@pytest.mark.parametrize("value", [2.5, 8.5, "5.2 %", "5.20 percent", " 3 ", "+4"])
def test_values_at_the_bounds_and_with_units_are_in_range(value: Any) -> None:
    assert broken({"apr": value}, APR) == []


@pytest.mark.parametrize(
    ("constraint", "value", "rule"),
    [
        ({"min": 0, "max": 1, "exclusive_max": True}, 1, "range"),
        ({"exclusive_min": 0}, 0, "range"),
        ({"exclusiveMinimum": 0}, 0, "range"),
        ({"min": 0, "max": 1, "unit": "fraction"}, "150 %", "range"),
        ({"min": 1000}, "$1,250.00", None),
        ({"min": 2000}, "$1,250.00", "range"),
        ({"min": 10}, "1e1", None),
        ({"max": 5}, "-3", None),
        ({"min": 0}, "−3", "range"),  # noqa: RUF001 - a typographic minus, as models write it
        ({"min": 1}, "many", "type"),
        ({"min": 1}, True, "type"),
        ({"min": 1}, [5], "type"),
        ({"min": "2026-01-01", "max": "2026-12-31"}, "2027-01-01", "range"),
        ({"min": "2026-01-01", "max": "2026-12-31"}, "2026-06-30T12:00:00Z", None),
        ({"min": "2026-01-01"}, "soon", "type"),
        ({"min": 1, "required": False}, None, None),
        ({"min": 1, "nullable": True}, None, None),
        ({"min": 1}, None, "null"),
    ],
)
def test_ranges(constraint: dict[str, Any], value: Any, rule: str | None) -> None:
    assert broken({"x": value}, {"x": {"type": "range", **constraint}}) == ([("x", rule)] if rule else [])


def test_a_missing_field_is_a_format_violation_with_the_rule_named() -> None:
    verdict = classify(event(output={}, constraints=APR))
    assert (verdict.category, verdict.subtype, verdict.rule) == (
        "hallucination",
        "format_violation",
        "constraint-required",
    )
    assert details(verdict)["violations"][0]["valid_range"] == {"min": 2.5, "max": 8.5}


@pytest.mark.parametrize(
    ("value", "meant"),
    [("savings", "Savings"), ("SAVINGS ACCOUNT", "Savings"), ("Chekcing", "Checking"), ("Mortgage", None), (5, None)],
)
def test_near_misses_name_the_closest_allowed_value(value: Any, meant: str | None) -> None:
    verdict = classify(event(output={"p": value}, constraints={"p": {"type": "enum", "values": PRODUCTS}}))
    assert verdict.subtype == "enum_violation"
    assert details(verdict).get("nearest") == meant


@pytest.mark.parametrize("value", [True, 1.0])
def test_enum_values_compare_as_json(value: Any) -> None:
    """True is not 1, and 1.0 is."""
    assert bool(broken({"p": value}, {"p": {"type": "enum", "values": [1, 2]}})) is (value is True)


@pytest.mark.parametrize(
    ("pattern", "value", "holds"),
    [
        ("[A-Z]{2}", "ABC", False),  # must match in full
        ("[A-Z]{2}|x", "xAB", False),
        (r"\d+", 12, True),
        (r"\d{5}", "12345\n", False),
        ("(?=a)b", "anything", True),  # RE2 refuses lookaround: what cannot be checked is no violation
        ("a" * 600, "anything", True),
        ("^(a+)+$", "a" * 60_000 + "!", False),
    ],
)
def test_patterns_match_in_full_and_in_linear_time(pattern: str, value: Any, holds: bool) -> None:
    assert (broken({"x": value}, {"x": {"type": "format", "pattern": pattern}}) == []) is holds


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2026-02-28", "2026-02-30"),
        ("date-time", "2026-02-28T10:00:00Z", "28.2.2026"),
        ("email", "a@b.co", "a.b.co"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("uri", "https://a.b/c", "a b"),
    ],
)
def test_json_schema_formats(name: str, good: str, bad: str) -> None:
    constraints = {"x": {"type": "format", "format": name}}
    assert broken({"x": good}, constraints) == []
    assert broken({"x": bad}, constraints) == [("x", "format")]


def test_paths_reach_into_lists_and_objects() -> None:
    constraints = {"items.*.price": {"type": "range", "min": 0}, "a.b": {"type": "enum", "values": ["x"]}}
    output = {"items": [{"price": 1}, {"price": -1}, {}], "a": {"b": "x"}}
    assert broken(output, constraints) == [("items.1.price", "range"), ("items.2.price", "required")]


@pytest.mark.parametrize(
    ("rule", "output", "holds"),
    [
        ("end > start", {"start": "2026-01-02", "end": "2026-01-01"}, False),
        ("end > start", {"start": "2026-01-01", "end": "2026-01-02"}, True),
        ("total == net + tax", {"total": 1.3, "net": 1.1, "tax": 0.2}, True),
        ("total == net + tax", {"total": 1.31, "net": 1.1, "tax": 0.2}, False),
        ("a.x <= 10 - b", {"a": {"x": 8}, "b": 3}, False),
        ("end > start", {"start": "2026-01-01"}, True),  # a missing field says nothing
        ("a > b", {"a": "x", "b": 3}, True),  # not comparable
        ("__import__('os')", {"a": 1}, True),  # no rule at all
    ],
)
def test_rules_between_fields(rule: str, output: Any, holds: bool) -> None:
    found = broken(output, {"rules": [rule]})
    assert (found == []) is holds
    assert all(kind == "cross_field" for _, kind in found)


@pytest.mark.parametrize(
    "output",
    [
        'Sure! Here it is:\n```json\n{"apr": 0}\n```\nAnything else?',
        'The answer is {"apr": 0, "note": "braces } in text"} as asked.',
        "APR = 0%",
        "The apr is 0 %.",
    ],
)
def test_what_stands_in_prose_is_read(output: str) -> None:
    assert broken(output, APR)[0] == ("apr", "range")


@pytest.mark.parametrize(
    ("constraint", "good", "bad", "rule"),
    [
        ({"min": 2.5, "max": 8.5}, "5 %", 0, "range"),
        ({"minimum": 2.5, "maximum": 8.5}, 5, "9 %", "range"),
        ({"gte": 1}, 1, 0, "range"),
        ({"enum": PRODUCTS}, "Loan", "Lease", "enum"),
        ({"allowed_values": PRODUCTS}, "Loan", "Lease", "enum"),
        (PRODUCTS, "Loan", "Lease", "enum"),
        ({"type": "choice", "values": PRODUCTS}, "Loan", "Lease", "enum"),
        ({"type": "regex", "pattern": r"\d{5}"}, "12345", "123456", "pattern"),
        ({"pattern": r"\d{5}"}, "12345", "123456", "pattern"),
        ({"pattern": "^LOAN-"}, "LOAN-7", "LEASE-7", "pattern"),  # anchored: JSON Schema's, found anywhere
        ({"format": "date"}, "2026-01-31", "31.1.2026", "format"),
        ({"type": "number", "min": 2.5, "max": 8.5}, 5, 0, "range"),
        ({"type": "number", "min": 2.5, "max": 8.5}, 5, "five", "type"),
        ({"type": "string", "values": PRODUCTS}, "Loan", "Lease", "enum"),
        ({"anyOf": [{"minimum": 3}, {"type": "null"}]}, None, 1, "anyOf"),
    ],
)
def test_what_a_constraint_without_a_type_holds_tells_its_kind(constraint: Any, good: Any, bad: Any, rule: str) -> None:
    assert broken({"x": good}, {"x": constraint}) == []
    assert broken({"x": bad}, {"x": constraint}) == [("x", rule)]


@pytest.mark.parametrize("constraints", [{"field": "x", "min": 1}, [{"field": "x", "min": 1}, {"path": "y", "max": 9}]])
def test_constraints_that_name_their_field(constraints: Any) -> None:
    assert broken({"x": 1, "y": 9}, constraints) == []
    assert broken({"x": 0, "y": 9}, constraints) == [("x", "range")]


@pytest.mark.parametrize("constraints", [APR, {"type": "object", "properties": {"apr": {"minimum": 2.5}}}])
def test_json_given_as_text_is_json(constraints: Any) -> None:
    assert broken('{"apr": 5}', constraints) == []
    assert len(broken('{"apr": 0}', constraints)) == 1


def test_json_in_prose_that_keeps_its_constraints_is_still_no_json() -> None:
    assert broken('```json\n{"apr": 5}\n```', APR) == [("", "json_in_prose")]
    assert broken("I cannot say.", {**APR, "b": {"type": "range"}}) == [("", "output")]


def test_a_failed_tool_explains_an_output_that_is_missing_but_not_one_that_is_wrong() -> None:
    assert said(tool(429, output={"apr": None}, constraints=APR)) == "tool_failure/rate_limit"
    assert said(tool(429, output={"apr": 0}, constraints=APR)) == "hallucination/range_violation"


def test_many_and_huge_violations_stay_bounded() -> None:
    constraints = {f"f{index}": {"type": "enum", "values": ["v" * 500] * 20} for index in range(150)}
    verdict = classify(event(output=dict.fromkeys(constraints, "w" * 5000), constraints=constraints))
    assert verdict.subtype == "enum_violation"
    assert len(verdict.details) <= 32_768
    assert details(verdict)["violations"]


@given(st.floats(2.5, 8.5), st.sampled_from(["{}", "{} %", "{:.6f} percent", " {} "]))
def test_no_value_in_range_is_a_violation(value: float, form: str) -> None:
    assert broken({"apr": form.format(round(value, 4))}, APR) == []


@given(st.one_of(st.floats(max_value=2.49), st.floats(min_value=8.51)).filter(lambda value: abs(value) < 1e15))
def test_every_value_out_of_range_is_a_violation(value: float) -> None:
    assert broken({"apr": value}, APR) == [("apr", "range")]
