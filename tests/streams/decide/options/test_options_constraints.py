"""The schema that a remedy demands refuses what was wrong, and lets right answers through."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import NATURAL, Category, FailureEvent, Strategy
from streams.decide import Rates
from streams.decide.catalogue import shipped
from streams.decide.classify import classify
from streams.decide.options import options

NAMES = st.sampled_from(["apr", "loan.apr", "loan.kind", "product", "customer age", "items.*.price"])
NUMBERS = st.integers(-100, 100) | st.floats(-100, 100).map(lambda value: round(value, 2))
RANGES = st.tuples(NUMBERS, NUMBERS).map(lambda ends: {"type": "range", "min": min(ends), "max": max(ends)})
OPEN = NUMBERS.map(lambda end: {"type": "range", "exclusive_min": end})
ENUMS = st.lists(st.sampled_from(["Savings", "Checking", 1, 2]), min_size=1, max_size=3).map(
    lambda values: {"type": "enum", "values": values}
)
FORMATS = st.sampled_from(["[A-Z]{2}[0-9]+", "a|b", "^x+$"]).map(lambda text: {"type": "format", "pattern": text})
SCHEMAS = st.sampled_from([{"type": "integer", "minimum": 3}, {"type": "string", "minLength": 2}])
CONSTRAINTS = st.dictionaries(NAMES, RANGES | OPEN | ENUMS | FORMATS | SCHEMAS, min_size=1, max_size=4)
VALUES = NUMBERS | st.sampled_from(["Savings", "AB12", "ab", "a", "xx", "x", 1, 2, 5])


def placed(fields: dict[str, Any]) -> dict[str, Any]:
    """An output that holds each value where its field's path says."""
    output: dict[str, Any] = {}
    for field, value in fields.items():
        if field == "items.*.price":
            output["items"] = [{"price": value}]
        elif "." in field:
            output.setdefault("loan", {})[field.removeprefix("loan.")] = value
        else:
            output[field] = value
    return output


@settings(max_examples=200, deadline=None)
@given(CONSTRAINTS, st.data())
def test_the_demanded_schema_refuses_every_output_that_was_refused(constraints: dict[str, Any], data: Any) -> None:
    output = placed({field: data.draw(VALUES) for field in constraints if data.draw(st.integers(0, 9))})
    fields = {"tenant_id": "t", "execution_id": "e", "output": output, "constraints": constraints}
    event = FailureEvent.model_validate(fields, context=NATURAL)
    verdict = classify(event)
    if verdict.category is not Category.HALLUCINATION:
        return
    offered = {option.strategy: option for option in options(event, verdict, shipped(), Rates())}
    schema = orjson.loads(offered[Strategy.FUNCTION_CALLING].parameters)["schema"]
    assert not jsonschema_rs.is_valid(schema, output), (schema, output, verdict.details)
    assert orjson.loads(offered[Strategy.VALIDATION_TOOL].parameters)["input_schema"] == schema


@settings(max_examples=200, deadline=None)
@given(RANGES, ENUMS, st.data())
def test_the_demanded_schema_lets_right_outputs_through(span: Any, choice: Any, data: Any) -> None:
    wrong = {"apr": span["max"] + 1, "loan": {"kind": "none"}}
    right = {
        "apr": data.draw(st.sampled_from([span["min"], span["max"]])),
        "loan": {"kind": data.draw(st.sampled_from(choice["values"]))},
    }
    constraints = {"apr": span, "loan.kind": choice}
    fields = {"tenant_id": "t", "execution_id": "e", "output": wrong, "constraints": constraints}
    event = FailureEvent.model_validate(fields, context=NATURAL)
    best = options(event, classify(event), shipped(), Rates())[0]
    assert best.strategy is Strategy.FUNCTION_CALLING
    assert jsonschema_rs.is_valid(orjson.loads(best.parameters)["schema"], right)
