"""From everything that the event shows to one verdict, and the words that explain it.

Order: control flow before all (unless the run was over a limit and no person is spoken of: then a watchdog ended it);
then constraints that the output breaks; then the error, where its evidence is specific enough; then flaws of the
reasoning; then limits exceeded; then what little a weak error says. Else nothing is said: `unknown` where a tool
failed, unclassified where not even that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from schemas.records import Category, Classification, Evidence, EvidenceSource, FailureEvent, Severity, parse_json_text
from streams.decide.classify.constraints import Checked, check
from streams.decide.classify.errors import CLEAR_LEAD, SPECIFIC, Finding, agreeing, findings, transience_rival, unsure
from streams.decide.classify.evidence import origin_of
from streams.decide.classify.execution import by_a_person, full, lasting, may_have_executed
from streams.decide.classify.logic import Flaw, Judgement, flaws
from streams.decide.classify.masking import mask, mask_value
from streams.decide.classify.performance import Overrun, overruns
from streams.decide.classify.rules import Rules, built_in
from streams.decide.classify.said import amount, constraint_said, overstepped
from streams.decide.classify.violation import MAX_VIOLATIONS, Violation
from streams.decide.classify.wording import SENTENCES, sentence, severity, where

_EVIDENCE_CHARS: Final = 300
_BESIDE_CHARS: Final = 160
_MAX_EVIDENCE: Final = 8
_MAX_DETAILS_BYTES: Final = 32_768
_READ_CHARS: Final = 2_048
_TELLING: Final = 70
_CALL_TIMEOUT: Final = (Category.TOOL_FAILURE, "timeout")
_UNAVAILABLE: Final = (Category.TOOL_FAILURE, "service_unavailable")
_NOTHING: Final = Checked([])


def classify(event: FailureEvent, rules: Rules | None = None, judgements: Sequence[Judgement] = ()) -> Classification:
    """The verdict on one failure. Pure: equal arguments give equal verdicts. Never raises on an event's content.

    `judgements` are a Verifier's, where one is plugged in (see logic).
    """
    said = findings(event, rules or built_in())
    if unsure(said):
        said = []
    if said and said[0].rule.category is Category.NONE:
        exceeded = [] if by_a_person(event, said[0].text) else overruns(event)
        return _of_overruns(exceeded) if exceeded else _of_error(event, said)
    strong = bool(said) and said[0].weight >= SPECIFIC
    checked = _checked(event)
    if violations := checked.violations:
        elsewhere = strong and said[0].rule.category is not Category.HALLUCINATION
        if not (elsewhere and all(violation.soft for violation in violations)):
            return _of_violations(checked)
    if strong:
        exceeded = _exceeded_by_the_run(event, said[0])
        return _of_overruns(exceeded) if exceeded else _of_error(event, said)
    if found := flaws(event, judgements):
        return _of_flaws(found)
    if exceeded := overruns(event):
        return _of_overruns(exceeded)
    return _of_error(event, said) if said else _abstained(event, checked.refused)


def _exceeded_by_the_run(event: FailureEvent, decisive: Finding) -> list[Overrun]:
    """Limits that words about a timeout or about a process that ended speak of; none where a tool or a model is in
    sight: then the words are of it.
    """
    called = event.tool_response is not None or origin_of(event) in ("tool", "model")
    if called or decisive.source is EvidenceSource.STRUCTURED:
        return []
    if decisive.rule.verdict == _CALL_TIMEOUT and decisive.source is EvidenceSource.MESSAGE:
        return overruns(event)
    if decisive.rule.verdict == _UNAVAILABLE and not (event.error and event.error.http_status):
        return [overrun for overrun in overruns(event) if overrun.subtype == "out_of_memory"]
    return []


def _checked(event: FailureEvent) -> Checked:
    if event.output is None or event.constraints is None:
        return _NOTHING
    return check(parse_json_text(event.output), parse_json_text(event.constraints))


def _of_violations(checked: Checked) -> Classification:
    violations = checked.violations
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    others = {violation.subtype for violation in violations} - {first.subtype}
    listed = [_violation_details(violation) for violation in violations[:MAX_VIOLATIONS]]
    return Classification(
        category=Category.HALLUCINATION,
        subtype=first.subtype,
        severity=max((violation.severity for violation in violations), key=list(Severity).index),
        confidence=0.99,
        rule=f"constraint-{first.rule}",
        details=_violations_json(listed, checked.refused),
        evidence=tuple(
            Evidence(
                source=EvidenceSource.STRUCTURED,
                path=f"output.{item.path}" if item.path else "output",
                rule=f"constraint-{item.rule}",
                text=_cut(shown["message"]),
            )
            for item, shown in zip(violations[:_MAX_EVIDENCE], listed, strict=False)
        ),
        explanation=f"{SENTENCES[first.subtype]}: {listed[0]['message']}{more}.",
        counterfactual=f"Had {mask(first.path) or 'the output'} kept its constraint, "
        + (f"the verdict would be {min(others)}." if others else "there would be no such violation."),
    )


def _violations_json(listed: list[dict[str, Any]], refused: list[str]) -> str:
    """All violations; where they would be too long, as many as fit, and how many there are."""
    details = {key: value for key, value in listed[0].items() if key not in ("path", "rule", "message")}
    details["violations"] = listed
    if refused:
        details["not_checked"] = [mask(why) for why in refused[:_MAX_EVIDENCE]]
    text = _json(details)
    while len(text) > _MAX_DETAILS_BYTES and len(listed) > 1:
        details["omitted"] = details.get("omitted", 0) + len(listed) - len(listed) // 2
        listed = listed[: len(listed) // 2]
        text = _json(details | {"violations": listed})
    if len(text) > _MAX_DETAILS_BYTES:
        kept = {key: listed[0][key] for key in ("path", "field", "rule", "severity", "message")}
        text = _json({"field": kept["field"], "severity": kept["severity"], "violations": [kept]})
    return text


def _violation_details(violation: Violation) -> dict[str, Any]:
    return {
        "path": violation.path,
        "field": violation.path,
        "rule": violation.rule,
        "actual_value": mask_value(violation.actual, violation.path.rpartition(".")[2]),
        **_masked_limits(violation.limits),
        "severity": violation.severity.value,
        "message": mask(violation.message),
    }


def _masked_limits(limits: Mapping[str, Any]) -> Any:
    """Bounds are numbers mostly, and hold no secret."""
    bounds = limits.get("valid_range")
    if len(limits) == 1 and bounds and not any(isinstance(bound, str) for bound in bounds.values()):
        return limits
    return mask_value(dict(limits))


def _of_error(event: FailureEvent, said: list[Finding]) -> Classification:
    decisive, rule = said[0], said[0].rule
    evidence = _error_evidence(said)
    return Classification(
        category=rule.category,
        subtype=rule.subtype,
        severity=severity(rule.subtype),
        confidence=_confidence(said),
        rule=rule.name,
        details=_json(_error_details(event, rule.subtype, rule.category, decisive.text)),
        evidence=evidence,
        explanation=f"{sentence(rule.category, rule.subtype)}: {_what(event, decisive, evidence[0].text)}.",
        counterfactual=_counterfactual(said),
    )


def _what(event: FailureEvent, decisive: Finding, text: str) -> str:
    """What was read and where, and beside a name or a number what the error itself says."""
    if decisive.source is EvidenceSource.MESSAGE:
        return f'{where(decisive.path)} "{_on_one_line(text)}"'
    message = event.error.message if event.error is not None and decisive.path.startswith("error.") else None
    beside = f' ("{_on_one_line(_shown(message, _BESIDE_CHARS))}")' if message else ""
    return f"{where(decisive.path)} {text.removeprefix('exit:')}{beside}"


def _error_evidence(said: list[Finding]) -> tuple[Evidence, ...]:
    """What spoke for the verdict, the decisive first, then what spoke against it."""
    verdict = said[0].rule.verdict
    ordered = [item for item in said if item.rule.verdict == verdict] + [
        item for item in said if item.rule.verdict != verdict
    ]
    shown: dict[str, str] = {}
    for item in ordered[:_MAX_EVIDENCE]:
        if item.text not in shown:
            shown[item.text] = _shown(item.text)
    return tuple(
        Evidence(source=item.source, path=item.path, rule=item.rule.name, text=shown[item.text])
        for item in ordered[:_MAX_EVIDENCE]
    )


def _confidence(said: list[Finding]) -> float:
    """Shares of right verdicts on errors that were labelled before any rule saw them, rounded down. Of 390: 0.96 of 122
    where two rules or more agree and no rival is near, 0.81 of 121 where one speaks alone, 0.74 of 27 where what is
    near says the opposite of waiting, 0.3 of 14 of the weakest. Of 242 later ones: 0.95 of 95 said with 0.95, 0.83 of
    115 said with 0.8; of 355 others 0.98 of 166 and 0.84 of 155; of 348 of shells, compilers and validators 0.94 of
    134 and 0.79 of 165.
    """
    weight = said[0].weight
    if weight < SPECIFIC:
        return 0.4
    rival = next((item.weight for item in said if item.rule.verdict != said[0].rule.verdict), 0)
    other = transience_rival(said)
    if other is not None and weight - other.weight < 2 * CLEAR_LEAD:
        return 0.7
    clear = weight >= _TELLING and weight - rival >= CLEAR_LEAD
    return 0.95 if clear and agreeing(said) > 1 else 0.8


def _counterfactual(said: list[Finding]) -> str:
    verdict = said[0].rule.verdict
    paths = " and ".join(dict.fromkeys(item.path for item in said if item.rule.verdict == verdict))
    rival = next((item for item in said if item.rule.verdict != verdict), None)
    if rival is None:
        return f"Without {paths} the cause would be unknown."
    say = "say" if " and " in paths else "says"
    return f"Without what {paths} {say}, the verdict would be {rival.rule.subtype} ({rival.rule.name})."


def _error_details(event: FailureEvent, subtype: str, category: Category, text: str = "") -> dict[str, Any]:
    tool, error = event.tool_response, event.error
    details: dict[str, Any] = {
        "tool": tool.tool if tool else None,
        "status": (tool.status_code if tool else None) or (error.http_status if error else None),
        "code": mask(error.code) if error and error.code else None,
        "class": error.class_name if error else None,
    }
    if category is Category.TOOL_FAILURE:
        details["call_may_have_executed"] = may_have_executed(event, subtype)
    elif category in (Category.PERFORMANCE, Category.HALLUCINATION) and error and error.message:
        details |= _said(mask(error.message[:_READ_CHARS]), subtype)
    if lasting(event, subtype) or (subtype == "service_unavailable" and full(text)):
        details["lasting"] = True
    return details


def _said(message: str, subtype: str) -> dict[str, Any]:
    """What the message says of the limit or the constraint that was broken: remedies are made of it."""
    if subtype in ("range_violation", "enum_violation"):
        return constraint_said(message)
    amounts = overstepped(message, subtype)
    if amounts is None:
        return {}
    said = {"limit": amounts.limit, "measured": amounts.measured, "unit": amounts.unit}
    return said if amounts.measured is None else {**said, "overshoot": amounts.measured / amounts.limit - 1}


def _of_flaws(found: list[Flaw]) -> Classification:
    first = found[0]
    details = {key: value for flaw in reversed(found) for key, value in flaw.details.items()}
    return Classification(
        category=Category.LOGICAL_ERROR,
        subtype=first.subtype,
        severity=first.severity,
        confidence=first.confidence,
        rule=f"logic-{first.subtype}",
        details=_bounded_json(mask_value(details)),
        evidence=tuple(
            _evidence(EvidenceSource.STRUCTURED, flaw.path, f"logic-{flaw.subtype}", flaw.text)
            for flaw in found[:_MAX_EVIDENCE]
        ),
        explanation=mask(_cut(f"{SENTENCES[first.subtype]}: {first.text}.")),
        counterfactual=f"Without it the verdict would be {found[1].subtype}."
        if len(found) > 1
        else f"Had {first.path} been otherwise, no flaw of the reasoning could be shown.",
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
            _evidence(
                EvidenceSource.STRUCTURED,
                item.path,
                f"limit-{item.unit}",
                f"{amount(item.measured, item.unit)} of {amount(item.limit, item.unit)}",
            )
            for item in exceeded
        ),
        explanation=f"{sentence(first.category, first.subtype)}: {amount(first.measured, first.unit)} used, "
        f"{amount(first.limit, first.unit)} allowed.",
        counterfactual=f"With at most {amount(first.limit, first.unit)} it would have been within its limit.",
    )


def _abstained(event: FailureEvent, refused: list[str]) -> Classification:
    tool_failed = origin_of(event) == "tool" or event.tool_response is not None
    why = f" Not checked: {'; '.join(refused[:3])}." if refused else ""
    return Classification(
        category=Category.TOOL_FAILURE if tool_failed else Category.UNCLASSIFIED,
        subtype="unknown",
        severity=Severity.MEDIUM,
        details=_json(_error_details(event, "unknown", Category.TOOL_FAILURE)) if tool_failed else "{}",
        explanation=mask(_cut(f"Nothing in the evidence tells the cause.{why}")),
        counterfactual="A status, an error code, a known class of exception or a telling message would decide.",
    )


def _evidence(source: EvidenceSource, path: str, rule: str, text: str) -> Evidence:
    return Evidence(source=source, path=path, rule=rule, text=_shown(text))


def _shown(text: str, limit: int = _EVIDENCE_CHARS) -> str:
    """Masked, then cut: a cut secret would not be recognised."""
    return text if text.isdigit() else _cut(mask(text[: 4 * _EVIDENCE_CHARS]), limit)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, limit: int = _EVIDENCE_CHARS) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _bounded_json(details: dict[str, Any]) -> str:
    text = _json(details)
    return text if len(text) <= _MAX_DETAILS_BYTES else _json({key: _cut(str(value)) for key, value in details.items()})


def _json(details: dict[str, Any]) -> str:
    return orjson.dumps(details, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
