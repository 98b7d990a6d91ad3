"""JSON Schemas: agreement with the official suite, and schemas that would cost too much."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from classify_events import broken, details, event

from streams.decide.classify import classify
from streams.decide.classify.schema import refusal, schema_violations, validator

LOAN = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "apr": {"type": "number", "minimum": 2.5, "maximum": 8.5},
        "product": {"enum": ["Savings", "Loan"]},
        "when": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    },
    "required": ["apr", "product"],
    "additionalProperties": False,
}


def test_every_violation_of_a_schema_with_its_path() -> None:
    output = {"apr": 0, "product": "loan", "when": "soon", "tags": ["a", 2, "c"], "extra": 1}
    assert set(broken(output, LOAN)) == {
        ("apr", "minimum"),
        ("product", "enum"),
        ("when", "format"),
        ("tags", "maxItems"),
        ("tags.1", "type"),
        ("extra", "additionalProperties"),
    }


def test_the_details_are_those_of_a_field_s_constraint() -> None:
    found = {
        item["path"]: item
        for item in details(classify(event(output={"apr": 0, "product": "loan"}, constraints=LOAN)))["violations"]
    }
    assert found["apr"]["valid_range"] == {"min": 2.5, "max": 8.5}
    assert (found["product"]["allowed_values"], found["product"]["nearest"]) == (["Savings", "Loan"], "Loan")


def test_a_missing_property_and_a_null_are_named() -> None:
    assert broken({"apr": None}, LOAN) in (
        [("product", "required"), ("apr", "null")],
        [("apr", "null"), ("product", "required")],
    )


def test_a_field_may_have_a_schema_of_its_own() -> None:
    constraints = {"n": {"type": "integer", "minimum": 1}, "s": {"type": ["string", "null"], "maxLength": 2}}
    assert broken({"n": 0, "s": None}, constraints) == [("n", "minimum")]


def test_json_within_fences_is_checked_against_the_schema() -> None:
    assert broken('```json\n{"apr": 0, "product": "Loan"}\n```', LOAN)[0] == ("apr", "minimum")


def exponential(levels: int) -> dict[str, Any]:
    """Twice as many subschemas on each level, in a few bytes."""
    defs = {f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)}
    return {"$defs": {**defs, f"a{levels}": {"type": "string"}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"enum": ["x" * 20_000]}, "bytes"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "cyclic"),
        ({"properties": {"a": {"$ref": "#"}}}, "cyclic"),
        ({"$ref": "https://example.com/schema.json"}, "another document"),
        ({"$ref": "file:///etc/passwd"}, "another document"),
        ({"anyOf": [{"type": "string"}] * 300}, "subschemas"),
        (exponential(22), "expanded"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft"),
    ],
)
def test_a_schema_that_could_cost_too_much_is_refused_and_accuses_nobody(schema: dict[str, Any], why: str) -> None:
    assert why in (refusal(schema) or "")
    verdict = classify(event(output=5, constraints={"type": "string", **schema}))
    assert verdict.category == "unclassified"
    assert "Not checked" in verdict.explanation


def test_a_deeply_nested_schema_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"not": schema}
    assert "deeper" in (refusal(schema) or "")


def test_a_reference_within_the_document_is_followed() -> None:
    schema = {"$defs": {"p": {"minimum": 1}}, "properties": {"a": {"$ref": "#/$defs/p"}}}
    found, why = schema_violations({"a": 0}, schema)
    assert (why, [violation.path for violation in found]) == (None, ["a"])


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"minimum": "1"}, {"pattern": "(?=x)"}, {"pattern": "("}])
def test_an_invalid_schema_accuses_nobody(schema: dict[str, Any]) -> None:
    found, why = schema_violations(0, schema)
    assert not found
    assert why


CACHE = Path(__file__).parents[4] / ".cache" / "json-schema-test-suite"
"""jsonschema's source distribution on PyPI carries the official suite."""


@pytest.fixture(scope="session")
def suite() -> Path:
    if not (CACHE / "tests").is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "jsonschema==4.26.0", "--no-deps", "--no-binary", ":all:"]
        fetched = subprocess.run(
            [*command, "-q", "-d", str(CACHE)], capture_output=True, text=True, timeout=120, check=False
        )
        if fetched.returncode:
            pytest.skip(f"the official suite could not be fetched: {fetched.stderr.strip()[-200:]}")
        with tarfile.open(next(CACHE.glob("*.tar.gz"))) as archive:
            for member in archive.getmembers():
                _, _, inner = member.name.partition("/json/")
                if member.isfile() and inner:
                    member.name = inner
                    archive.extract(member, CACHE, filter="data")
    return CACHE


_UNCLAIMED = ("draft3", "draft4", "draft6", "draft2019-09", "draft-next", "v1")


def remotes(suite: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in (suite / "remotes").rglob("*.json"):
        place = path.relative_to(suite / "remotes")
        if place.parts[0] not in _UNCLAIMED:
            found[f"http://localhost:1234/{place.as_posix()}"] = json.loads(path.read_text())
    return found


def groups(suite: Path, draft: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(name, group, whether formats are asserted): all that a draft requires, and every format."""
    for folder, formats in ((suite / "tests" / draft, False), (suite / "tests" / draft / "optional" / "format", True)):
        for path in sorted(folder.glob("*.json")):
            for group in json.loads(path.read_text()):
                yield f"{path.name}: {group['description']}", group, formats


@pytest.mark.parametrize(("draft", "at_least"), [("draft7", 1_300), ("draft2020-12", 1_700)])
def test_the_official_suite_agrees_on_every_case(suite: Path, draft: str, at_least: int) -> None:
    documents = remotes(suite)
    registry = jsonschema_rs.Registry(
        list(documents.items()),
        draft=jsonschema_rs.Draft7 if draft == "draft7" else jsonschema_rs.Draft202012,
        retriever=lambda uri: documents.get(uri.partition("#")[0], {}),
    )
    cases, wrong = 0, []
    for name, group, formats in groups(suite, draft):
        schema = group["schema"]
        kept = (
            refusal(schema) is None and draft == "draft2020-12" and not formats and not name.startswith("format.json")
        )
        if draft == "draft7":
            compiled: Any = jsonschema_rs.Draft7Validator(
                schema,
                validate_formats=formats,
                registry=registry,
                offline=True,
                pattern_options=jsonschema_rs.RegexOptions(),
            )
        else:
            compiled = validator(schema, registry, formats)
        for case in group["tests"]:
            cases += 1
            if compiled.is_valid(case["data"]) is not case["valid"]:
                wrong.append(f"{name}: {case['description']}")
            if kept and bool(schema_violations(case["data"], schema)[0]) is case["valid"]:
                wrong.append(f"ours: {name}: {case['description']}")
    assert not wrong
    assert cases >= at_least
