"""The agent's reasoning against what is known: assumptions, conclusion, required steps, repeated calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.records import FailureEvent, Severity, parse_json_text
from streams.decide.classify.values import folded, same

LOOP_REPEATS: Final = 3
"""Equal calls in a row (or in one repeated cycle) that make a loop: two may be a retry."""
_MAX_STEPS: Final = 500


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with the reasoning."""

    subtype: str
    severity: Severity
    path: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)


def flaws(event: FailureEvent) -> list[Flaw]:
    """What can be shown to be wrong, the most basic first. What cannot be verified is no error."""
    found = [*_wrong_assumptions(event), *_wrong_conclusion(event), *_missing_steps(event), *_loops(event)]
    return found


def _value(text: str | None) -> Any:
    return parse_json_text(text) if text is not None else None


def _wrong_assumptions(event: FailureEvent) -> list[Flaw]:
    facts = _value(event.facts)
    if not isinstance(facts, dict) or event.reasoning is None:
        return []
    return [
        Flaw(
            "incorrect_assumption",
            Severity.HIGH,
            "reasoning",
            f"assumed {name} = {assumed!r}, in fact {facts[name]!r}",
            {"assumption": {name: assumed}, "correct_value": facts[name], "consequence": _value(event.conclusion)},
        )
        for name, assumed in _assumptions(_value(event.reasoning))
        if name in facts and not same(assumed, facts[name])
    ]


def _assumptions(reasoning: Any) -> list[tuple[str, Any]]:
    """(fact's name, assumed value) of the assumptions that name a fact."""
    found: list[tuple[str, Any]] = []
    steps = reasoning if isinstance(reasoning, list) else [reasoning]
    for step in steps[:_MAX_STEPS]:
        if not isinstance(step, dict):
            continue
        for given in (step.get("assumption"), step.get("assumptions")):
            for item in given if isinstance(given, list) else [given]:
                if isinstance(item, dict):
                    if "name" in item and "value" in item:
                        found.append((str(item["name"]), item["value"]))
                    else:
                        found.extend((str(name), value) for name, value in item.items())
    return found


def _wrong_conclusion(event: FailureEvent) -> list[Flaw]:
    expected = _value(event.expected_output)
    if event.conclusion is None or expected is None:
        return []
    if isinstance(expected, dict) and "correct_conclusion" in expected:
        expected = expected["correct_conclusion"]
    concluded = _value(event.conclusion)
    if expected is None or same(concluded, expected):
        return []
    return [
        Flaw(
            "wrong_conclusion",
            Severity.HIGH,
            "conclusion",
            f"concluded {concluded!r}, expected {expected!r}",
            {
                "agent_conclusion": concluded,
                "correct_conclusion": expected,
                "reasoning_gap": "the conclusion differs from the expected one",
            },
        )
    ]


def _missing_steps(event: FailureEvent) -> list[Flaw]:
    if not event.required_steps or event.reasoning is None:
        return []
    reasoning = _value(event.reasoning)
    done = folded(_text(reasoning))
    missing = [step for step in event.required_steps if folded(step) not in done]
    if not missing:
        return []
    return [
        Flaw(
            "missing_step",
            Severity.MEDIUM,
            "required_steps",
            f"not taken: {', '.join(missing)}",
            {"missing_steps": missing, "reasoning_gap": f"not taken: {', '.join(missing)}"},
        )
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return str(value)


def _loops(event: FailureEvent) -> list[Flaw]:
    calls = event.calls
    if len(calls) < LOOP_REPEATS:
        return []
    counts = Counter(call.call_fingerprint for call in calls)
    fingerprint, times = counts.most_common(1)[0]
    if times < LOOP_REPEATS:
        return []
    tool = next(call.tool for call in calls if call.call_fingerprint == fingerprint)
    return [
        Flaw(
            "loop",
            Severity.MEDIUM,
            "calls",
            f"{tool} was called {times} times with the same arguments",
            {"tool": tool, "call_fingerprint": fingerprint, "repeats": times},
        )
    ]
