"""The agent's reasoning against what is known: assumptions, required steps and factors, the conclusion, repeated calls.

Only what can be shown to be wrong is a flaw: an assumption about something that is no known fact, a value that cannot
be compared
with the fact's, a conclusion in other words than the expected one are none. A `Verifier` can judge what is left over.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import re2

from schemas.records import FailureEvent, Severity, ToolCall, parse_json_text
from streams.decide.classify.extract import fields_in
from streams.decide.classify.values import folded, instant, number, same

LOOP_REPEATS: Final = 3
"""Repetitions of one call, or of one cycle of calls, that make a loop: two may be a retry."""
_LONGEST_CYCLE: Final = 8
_DOMINANT_REPEATS: Final = 5
_MAX_STEPS: Final = 500
_MAX_FACTS: Final = 100
_SHORT_WORDS: Final = 8
_SAME_WORDS: Final = 0.6
"""Share of common words from which two sentences are taken to say the same."""
_MAX_TEXT: Final = 16_384
_SEPARATORS: Final = str.maketrans(dict.fromkeys(string.punctuation, " "))
_NEGATIONS: Final = frozenset(
    [
        "not",
        "no",
        "never",
        "cannot",
        "don",
        "doesn",
        "won",
        "isn",
        "aren",
        "without",
        "deny",
        "denied",
        "reject",
        "rejected",
        "decline",
    ]
)
_HEDGED: Final = re2.compile(
    r"(?i)^(not|no|n't|at least|at most|over|under|more|less|above|below|about|around|between|unknown|never)\b"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the reasoning takes for true."""

    text: str
    fact: str | None = None
    """Name of the fact that it is about, where it names one."""
    value: Any = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verifier's word on one claim; `holds` None: it cannot tell."""

    claim: Claim
    holds: bool | None
    correct_value: Any = None
    confidence: float = 0.7
    """Share of such judgements that are right, as the verifier knows itself."""


class Verifier(Protocol):
    """Judges claims that no fact decides, for example by asking a model.

    It may do I/O, so it runs at the edge and under the edge's time limit, before `classify`; what it has not answered
    by then counts as not judged.
    """

    async def verify(self, event: FailureEvent, claims: Sequence[Claim]) -> Sequence[Judgement]: ...


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with the reasoning."""

    subtype: str
    severity: Severity
    path: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)
    confidence: float = 0.95


def flaws(event: FailureEvent, judgements: Sequence[Judgement] = ()) -> list[Flaw]:
    """What can be shown to be wrong, causes before their consequences."""
    if not (event.reasoning or event.conclusion or event.expected_output or event.calls or judgements):
        return []
    return [
        *_wrong_assumptions(event),
        *_judged(event, judgements),
        *_missing(event),
        *_wrong_conclusion(event),
        *_loops(event.calls),
    ]


def unverified_claims(event: FailureEvent) -> list[Claim]:
    """Claims of the reasoning that no known fact decides: work for a Verifier."""
    facts = _facts(event)
    return [claim for claim in _claims(event, facts) if claim.fact not in facts]


def _value(text: str | None) -> Any:
    return parse_json_text(text) if text is not None else None


def _facts(event: FailureEvent) -> dict[str, Any]:
    facts = _value(event.facts)
    return dict(list(facts.items())[:_MAX_FACTS]) if isinstance(facts, dict) else {}


def _wrong_assumptions(event: FailureEvent) -> Iterator[Flaw]:
    facts = _facts(event)
    if not facts or event.reasoning is None:
        return
    for claim in _claims(event, facts):
        if claim.fact in facts and _contradicts(claim.value, facts[claim.fact]):
            yield _assumption_flaw(event, claim, facts[claim.fact], 0.95)


def _judged(event: FailureEvent, judgements: Sequence[Judgement]) -> Iterator[Flaw]:
    for judgement in judgements:
        if judgement.holds is False:
            flaw = _assumption_flaw(event, judgement.claim, judgement.correct_value, judgement.confidence)
            yield replace(flaw, details={**flaw.details, "judged_by": "verifier"})


def _assumption_flaw(event: FailureEvent, claim: Claim, correct: Any, confidence: float) -> Flaw:
    assumed: Any = {claim.fact: claim.value} if claim.fact is not None else claim.text
    return Flaw(
        "incorrect_assumption",
        Severity.HIGH,
        "reasoning",
        f"assumed {_said(claim)}, in fact {correct!r}",
        {"assumption": assumed, "correct_value": correct, "consequence": _value(event.conclusion)},
        confidence,
    )


def _said(claim: Claim) -> str:
    return f"{claim.fact} = {claim.value!r}" if claim.fact is not None else repr(claim.text)


def _claims(event: FailureEvent, facts: dict[str, Any]) -> Iterator[Claim]:
    """Assumptions as the runtime gives them, and statements about facts in the text of the reasoning."""
    reasoning = _value(event.reasoning)
    for step in (reasoning if isinstance(reasoning, list) else [reasoning])[:_MAX_STEPS]:
        if isinstance(step, str):
            yield from _stated(step, facts)
        elif isinstance(step, dict):
            for given in (step.get("assumption"), step.get("assumptions")):
                for item in given if isinstance(given, list) else [given]:
                    yield from _assumed(item, step, facts)
            for key in ("step", "thought", "text", "reasoning"):
                if isinstance(step.get(key), str):
                    yield from _stated(step[key], facts)


def _assumed(item: Any, step: dict[str, Any], facts: dict[str, Any]) -> Iterator[Claim]:
    if isinstance(item, dict):
        name = item.get("name", item.get("fact"))
        if isinstance(name, str) and "value" in item:
            yield Claim(f"{name} = {item['value']}", name, item["value"])
        else:
            yield from (Claim(f"{name} = {value}", str(name), value) for name, value in item.items())
    elif isinstance(item, str):
        if item in facts:
            yield Claim(item, item, step.get("value", True))
        elif stated := list(_stated(item, facts)):
            yield from stated
        else:
            yield Claim(item)


def _stated(text: str, facts: dict[str, Any]) -> Iterator[Claim]:
    for name, value in fields_in(text, facts).items():
        if not _HEDGED.search(value):
            yield Claim(f"{name} = {value}", name, value)


def _contradicts(claimed: Any, fact: Any) -> bool:
    """Whether two values can be compared and differ. Text that only says it otherwise does not contradict."""
    if same(claimed, fact):
        return False
    if isinstance(claimed, str) and not isinstance(fact, str):
        head = claimed.split(" ")[0]
        comparable = _is_truth(head) if isinstance(fact, bool) else number(claimed) is not None
        return comparable and not same(head, fact)
    if isinstance(claimed, str) and isinstance(fact, str):
        if instant(fact) is not None or number(fact) is not None:
            return instant(claimed) is not None or number(claimed) is not None
        return len(claimed.split()) == len(fact.split()) == 1 and folded(claimed) not in folded(fact)
    return True


def _is_truth(word: str) -> bool:
    return word.casefold() in ("true", "false", "yes", "no")


def _missing(event: FailureEvent) -> Iterator[Flaw]:
    """Required steps that were not taken and required factors that were not weighed."""
    if event.reasoning is None:
        yield from _calls_left_out(event)
        return
    expected = _value(event.expected_output)
    factors = expected.get("required_factors") if isinstance(expected, dict) else None
    if not event.required_steps and not isinstance(factors, list):
        return
    done = _stems(_text([_value(event.reasoning), [call.tool for call in event.calls if call.succeeded]]))
    steps = [step for step in event.required_steps if not _mentions(done, step)]
    left_out = [str(item) for item in factors if not _mentions(done, str(item))] if isinstance(factors, list) else []
    for subtype, path, missing in (
        ("missing_step", "required_steps", steps),
        ("incomplete_analysis", "expected_output.required_factors", left_out),
    ):
        if missing:
            what = "not taken" if subtype == "missing_step" else "not considered"
            gap = f"{what}: {', '.join(missing)}"
            yield Flaw(
                subtype, Severity.MEDIUM, path, gap, {"missing_steps": missing, "reasoning_gap": gap}, confidence=0.9
            )


def _calls_left_out(event: FailureEvent) -> Iterator[Flaw]:
    """Required steps that are calls of tools, and were not made; of other steps, calls alone show nothing."""
    known = frozenset(event.execution.tools) if event.execution is not None else frozenset()
    done = {folded(call.tool) for call in event.calls if call.succeeded}
    steps = [step for step in event.required_steps if step in known or ("_" in step and " " not in step)]
    missing = [step for step in steps if folded(step) not in done]
    if done and missing:
        gap = f"not called: {', '.join(missing)}"
        yield Flaw(
            "missing_step",
            Severity.MEDIUM,
            "required_steps",
            gap,
            {"missing_steps": missing, "reasoning_gap": gap},
            confidence=0.85,
        )


def _mentions(done: frozenset[str], step: str) -> bool:
    """Whether every word of the step occurs, in whatever form: `verify ID` in `I verified the ID`."""
    wanted = _stems(step)
    return bool(wanted) and wanted <= done


def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:_STEM_CHARS] for word in _words(text) if word not in _FILLERS)


def _words(text: str) -> list[str]:
    return text[:_MAX_TEXT].casefold().translate(_SEPARATORS).split()


_STEM_CHARS: Final = 4
"""Of a word that is compared: `verify` and `verified` are the same step."""
_FILLERS: Final = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "and",
        "or",
        "to",
        "for",
        "in",
        "on",
        "with",
        "is",
        "are",
        "has",
        "have",
        "that",
        "it",
        "its",
        "if",
        "by",
        "as",
    ]
)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return str(value)


def _wrong_conclusion(event: FailureEvent) -> Iterator[Flaw]:
    expected = _value(event.expected_output)
    concluded = _value(event.conclusion) if event.conclusion is not None else _value(event.output)
    if expected is None or concluded is None:
        return
    if isinstance(expected, dict):
        if "correct_conclusion" in expected:
            expected = expected["correct_conclusion"]
        elif not isinstance(concluded, dict):
            return
        else:
            expected = {key: value for key, value in expected.items() if key in concluded and key != "required_factors"}
            concluded = {key: concluded[key] for key in expected}
    elif event.conclusion is None:
        return
    if expected is None or (confidence := _differ(concluded, expected)) == 0:
        return
    yield Flaw(
        "wrong_conclusion",
        Severity.HIGH,
        "conclusion" if event.conclusion is not None else "output",
        f"concluded {concluded!r}, expected {expected!r}",
        {
            "agent_conclusion": concluded,
            "correct_conclusion": expected,
            "reasoning_gap": "the conclusion differs from the expected one",
        },
        confidence,
    )


def _differ(concluded: Any, expected: Any) -> float:
    """How sure it is that the two say different things; 0 where they say the same or cannot be compared."""
    if same(concluded, expected):
        return 0.0
    if not (isinstance(concluded, str) and isinstance(expected, str)):
        return 0.95
    left, right = _words(concluded), _words(expected)
    if bool(_NEGATIONS & set(left)) != bool(_NEGATIONS & set(right)):
        return 0.95
    common = set(left) & set(right)
    if common == set(right) or len(common) / max(len(set(left) | set(right)), 1) >= _SAME_WORDS:
        return 0.0
    return 0.9 if max(len(left), len(right)) <= _SHORT_WORDS else 0.7


def _loops(calls: Sequence[ToolCall]) -> Iterator[Flaw]:
    """A cycle of calls, with equal arguments, repeated up to the end of the run; whether they succeeded does not
    matter.
    """
    prints = [call.call_fingerprint for call in calls]
    repeated = _cycle(prints) or _dominant(prints)
    if repeated is None:
        return
    fingerprint, times = repeated
    tool = next(call.tool for call in calls if call.call_fingerprint == fingerprint)
    yield Flaw(
        "loop",
        Severity.MEDIUM,
        "calls",
        f"{tool} was called {times} times with the same arguments",
        {"tool": tool, "call_fingerprint": fingerprint, "repeats": times},
    )


def _cycle(prints: Sequence[str]) -> tuple[str, int] | None:
    for period in range(1, _LONGEST_CYCLE + 1):
        needed = period * LOOP_REPEATS
        if len(prints) < needed:
            return None
        tail = prints[-needed:]
        if all(tail[index] == tail[index - period] for index in range(period, needed)):
            return prints[-1], _count(prints, prints[-1])
    return None


def _dominant(prints: Sequence[str]) -> tuple[str, int] | None:
    if len(prints) < _DOMINANT_REPEATS:
        return None
    fingerprint, times = Counter(prints).most_common(1)[0]
    return (fingerprint, times) if times >= _DOMINANT_REPEATS and times * 2 > len(prints) else None


def _count(prints: Iterable[str], wanted: str) -> int:
    return sum(fingerprint == wanted for fingerprint in prints)
