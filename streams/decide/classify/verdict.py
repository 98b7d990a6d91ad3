"""From everything that the event shows to one verdict, and the words that explain it.

Order: control flow before all; then constraints that the output breaks; then the error, where its evidence is specific enough;
then flaws of the reasoning; then limits exceeded; then what little a weak error says. Else nothing is said: `unknown` where a
tool failed, unclassified where not even that is known.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from schemas.records import (
    Category,
    Classification,
    Evidence,
    EvidenceSource,
    FailureEvent,
    Severity,
    parse_json_text,
)
from streams.decide.classify.constraints import Violation, field_violations
from streams.decide.classify.errors import Finding, findings
from streams.decide.classify.evidence import origin_of
from streams.decide.classify.logic import Flaw, flaws
from streams.decide.classify.masking import mask, mask_value
from streams.decide.classify.performance import Overrun, overruns
from streams.decide.classify.rules import Rules, built_in

SPECIFIC: Final = 50
"""Weight from which an error's evidence outranks flaws of the reasoning and limits exceeded."""
_EVIDENCE_CHARS: Final = 300
_MAX_EVIDENCE: Final = 8

_SEVERITIES: Final = {
    "auth_error": Severity.HIGH,
    "quota_exhausted": Severity.HIGH,
    "content_policy": Severity.HIGH,
    "out_of_memory": Severity.HIGH,
    "range_violation": Severity.HIGH,
    "enum_violation": Severity.HIGH,
    "unknown_tool": Severity.HIGH,
    "unknown_identifier": Severity.HIGH,
    "rate_limit": Severity.LOW,
    "control_flow": Severity.LOW,
}
_MAY_HAVE_EXECUTED: Final = frozenset({"timeout", "service_unavailable", "bad_response", "unknown"})


def classify(event: FailureEvent, rules: Rules | None = None) -> Classification:
    """The verdict on one failure. Pure: equal events and rules give equal verdicts. Never raises on an event's content."""
    said = findings(event, rules or built_in())
    if said and said[0].rule.category is Category.NONE:
        return _of_error(event, said)
    strong = bool(said) and said[0].weight >= SPECIFIC
    violations = _violations(event)
    if violations and not (strong and all(violation.absent for violation in violations)):
        return _of_violations(violations)
    if strong:
        return _of_error(event, said)
    if found := flaws(event):
        return _of_flaws(found)
    if exceeded := overruns(event):
        return _of_overruns(exceeded)
    return _of_error(event, said) if said else _abstained(event)


def _violations(event: FailureEvent) -> list[Violation]:
    if event.output is None or event.constraints is None:
        return []
    constraints = parse_json_text(event.constraints)
    if not isinstance(constraints, dict):
        return []
    return field_violations(parse_json_text(event.output), constraints)


def _of_violations(violations: list[Violation]) -> Classification:
    first = violations[0]
    listed = [_violation_details(violation) for violation in violations]
    details = {**{k: v for k, v in listed[0].items() if k not in ("path", "rule", "message")}, "violations": listed}
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return Classification(
        category=Category.HALLUCINATION,
        subtype=first.subtype,
        severity=max((violation.severity for violation in violations), key=_rank),
        confidence=0.99,
        rule=f"constraint-{first.rule}",
        details=_json(details),
        evidence=tuple(
            _evidence(EvidenceSource.STRUCTURED, f"output.{item.path}", f"constraint-{item.rule}", item.message)
            for item in violations[:_MAX_EVIDENCE]
        ),
        explanation=mask(f"The output breaks a constraint: {first.message}{more}."),
        counterfactual=f"With a value of {first.path} that the constraint allows, the output would have passed.",
    )


def _violation_details(violation: Violation) -> dict[str, Any]:
    return {
        "path": violation.path,
        "field": violation.path,
        "rule": violation.rule,
        "actual_value": mask_value(violation.actual),
        **violation.limits,
        "severity": violation.severity.value,
        "message": mask(violation.message),
    }


def _of_error(event: FailureEvent, said: list[Finding]) -> Classification:
    decisive = said[0]
    rule = decisive.rule
    return Classification(
        category=rule.category,
        subtype=rule.subtype,
        severity=_SEVERITIES.get(rule.subtype, Severity.MEDIUM),
        confidence=_confidence(said),
        rule=rule.name,
        details=_json(_error_details(event, rule.subtype) if rule.category is Category.TOOL_FAILURE else {}),
        evidence=tuple(_evidence(item.source, item.path, item.rule.name, item.text) for item in said[:_MAX_EVIDENCE]),
        explanation=mask(f"{rule.name} read {decisive.path}: {_cut(decisive.text)}"),
        counterfactual=_counterfactual(said),
    )


def _confidence(said: list[Finding]) -> float:
    return 0.95 if said[0].weight >= 70 else 0.9 if said[0].weight >= SPECIFIC else 0.6


def _counterfactual(said: list[Finding]) -> str:
    verdict = (said[0].rule.category, said[0].rule.subtype)
    for other in said:
        if (other.rule.category, other.rule.subtype) != verdict:
            return f"Without {said[0].path} the verdict would be {other.rule.subtype} ({other.rule.name})."
    return f"Without {said[0].path} the verdict would be {'the same' if len(said) > 1 else 'unknown'}."


def _error_details(event: FailureEvent, subtype: str) -> dict[str, Any]:
    tool, error = event.tool_response, event.error
    status = (tool.status_code if tool else None) or (error.http_status if error else None)
    return {
        "tool": tool.tool if tool else None,
        "status": status,
        "code": mask(error.code) if error and error.code else None,
        "call_may_have_executed": subtype in _MAY_HAVE_EXECUTED,
    }


def _of_flaws(found: list[Flaw]) -> Classification:
    first = found[0]
    return Classification(
        category=Category.LOGICAL_ERROR,
        subtype=first.subtype,
        severity=first.severity,
        confidence=0.95,
        rule=f"logic-{first.subtype}",
        details=_json(mask_value(first.details)),
        evidence=tuple(
            _evidence(EvidenceSource.STRUCTURED, flaw.path, f"logic-{flaw.subtype}", flaw.text)
            for flaw in found[:_MAX_EVIDENCE]
        ),
        explanation=mask(_cut(f"The reasoning is flawed: {first.text}.")),
    )


def _of_overruns(exceeded: list[Overrun]) -> Classification:
    first = exceeded[0]
    return Classification(
        category=first.category,
        subtype=first.subtype,
        severity=first.severity,
        confidence=0.95,
        rule=f"limit-{first.unit}",
        details=_json(
            {"limit": first.limit, "measured": first.measured, "unit": first.unit, "overshoot": first.overshoot}
        ),
        evidence=tuple(
            _evidence(EvidenceSource.STRUCTURED, item.path, f"limit-{item.unit}", f"{item.measured} of {item.limit}")
            for item in exceeded
        ),
        explanation=f"The run used {first.measured:g} {first.unit}, {first.limit:g} were allowed.",
        counterfactual=f"At most {first.limit:g} {first.unit} would have been within the limit.",
    )


def _abstained(event: FailureEvent) -> Classification:
    tool_failed = origin_of(event) == "tool" or event.tool_response is not None
    return Classification(
        category=Category.TOOL_FAILURE if tool_failed else Category.UNCLASSIFIED,
        subtype="unknown",
        severity=Severity.MEDIUM,
        details=_json(_error_details(event, "unknown") if tool_failed else {}),
        explanation="No rule knows this evidence.",
        counterfactual="A status, an error code, an exception class or a message would decide.",
    )


def _evidence(source: EvidenceSource, path: str, rule: str, text: str) -> Evidence:
    return Evidence(source=source, path=path, rule=rule, text=mask(_cut(text)))


def _cut(text: str) -> str:
    return text if len(text) <= _EVIDENCE_CHARS else text[: _EVIDENCE_CHARS - 3] + "..."


def _json(details: dict[str, Any]) -> str:
    return orjson.dumps(details, default=str).decode()


def _rank(severity: Severity) -> int:
    return list(Severity).index(severity)
