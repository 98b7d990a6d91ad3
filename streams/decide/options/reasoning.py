"""Remedies for wrong reasoning: facts, criteria, an end to loops, a repaired history."""

from __future__ import annotations

import re
from typing import Any, Final

from schemas.records import Strategy, parse_json_text
from streams.decide.classify.masking import mask_value
from streams.decide.options.context import Context, Generator, Remedy, dumps
from streams.decide.options.quoting import clean, identifier, listed, name, quoted, with_note

_MAX_FACTS: Final = 30
_STEP_FACTOR: Final = 2
_UNSEEN_FACTOR: Final = 0.75
"""Of break_loop's confidence, where a limit was reached but no call was seen to repeat."""
_INVALID_HISTORY: Final = (
    "The message history is not valid for the model's API: drop or complete the messages at fault."
)
_STEPS_SAID: Final = re.compile(
    r"(?:recursion|turns?|steps?|iterations?|run|calls?)\b[ a-z]{0,16}[ (:=]{0,3}(?:\d{1,6}/)?(\d{1,6})\b",
    re.ASCII | re.IGNORECASE,
)
"""`Recursion limit of 25`, `Max turns (10) exceeded`, `run limit (5/5)`."""


def correct_context(context: Context) -> Remedy | None:
    """The known facts, above all the one that the reasoning got wrong."""
    facts = _facts(context)
    if not facts:
        return None
    lines = [f"- {name(key)}: {quoted(value)}" for key, value in facts.items()]
    assumption = context.details.get("assumption")
    wrong = f"You assumed {_shown(assumption)}. That is wrong; do not assume it again." if assumption else ""
    text = with_note("Context (verified facts):", *lines, wrong, "Base the answer on these facts.")
    return Remedy(dumps({"text": text, "facts": facts}), "Gives the model the facts that its reasoning lacked.")


def _shown(assumption: Any) -> str:
    if isinstance(assumption, dict):
        return ", ".join(f"{name(str(key))} = {quoted(value)}" for key, value in list(assumption.items())[:5])
    return quoted(assumption)


def _facts(context: Context) -> dict[str, Any]:
    event = context.event
    given = parse_json_text(event.facts) if event.facts else None
    if isinstance(given, dict):
        facts = dict(list(given.items())[:_MAX_FACTS])
    elif isinstance(given, list):
        facts = {f"fact {number}": fact for number, fact in enumerate(given[:_MAX_FACTS], 1)}
    else:
        facts = {} if given is None else {"fact": given}
    correct, assumption = context.details.get("correct_value"), context.details.get("assumption")
    if correct is not None:
        about = next(iter(assumption), "correct value") if isinstance(assumption, dict) else "correct value"
        # First: the fact that the reasoning got wrong must not be cut off.
        facts = {about: correct} | {key: value for key, value in facts.items() if key != about}
    return {clean(key, 80): _bounded(value) for key, value in mask_value(facts).items()}


def _bounded(value: Any) -> Any:
    """A fact as data: numbers and booleans as they are, text and whatever holds text cleaned and cut."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(value) if isinstance(value, str) else clean(dumps({"": value})[4:-1], 400)


def decision_rubric(context: Context) -> Remedy | None:
    """The catalogue's rubric for this task, and the steps that were left out."""
    rubric = context.catalogue.rubric(_task(context))
    missing = _missing_steps(context)
    if rubric is None and not missing:
        return None
    steps = f"Required steps, each of which you must do before you conclude: {listed(missing)}." if missing else ""
    text = with_note(rubric.text.strip() if rubric is not None else "", steps)
    label = rubric.name if rubric is not None else "required_steps"
    return Remedy(dumps({"name": label, "text": text}), f"Explicit criteria ({label}) in place of a guess.")


def _missing_steps(context: Context) -> list[str]:
    missing = context.details.get("missing_steps")
    if isinstance(missing, list) and missing:
        return [step for step in missing if isinstance(step, str)]
    return list(context.event.required_steps)


def _task(context: Context) -> str:
    """What tells which rubric fits: chooses among the operator's texts, never becomes one."""
    event = context.event
    prompt = event.execution.prompt if event.execution is not None else None
    reasoning, conclusion = event.reasoning, event.conclusion
    return " ".join(part[:2000] for part in (event.step, event.agent.id, prompt, reasoning, conclusion) if part)


def break_loop(context: Context) -> Remedy | None:
    """Forbid the call that repeats, and ask for another way."""
    tool, fingerprint = context.tool, context.detail("call_fingerprint")
    what = f"the same call of {name(tool)}" if tool else "the same step"
    seen = fingerprint is not None
    text = with_note(
        f"You have repeated {what} without progress. Never repeat it with the same arguments."
        if seen
        else "You have reached the limit of steps without an answer. Never repeat a step that brought nothing new.",
        "Use what you already have, or take another way. If there is none, output 'UNABLE_TO_COMPLETE' instead.",
    )
    parameters: dict[str, Any] = {"text": text}
    if tool:
        parameters["tool"] = identifier(tool)
    if fingerprint:
        parameters["call_fingerprint"] = identifier(fingerprint)
    if not seen:
        return Remedy(dumps(parameters), "Runs that reach their limit of steps often go in circles.", _UNSEEN_FACTOR)
    return Remedy(dumps(parameters), "A repeat that changes nothing repeats its result.")


def extend_step_limit(context: Context) -> Remedy | None:
    """Twice the steps, where the limit was reached without a call that repeats."""
    limit = _step_limit(context)
    if limit is None or context.detail("call_fingerprint") is not None:
        return None
    extended = min(limit * _STEP_FACTOR, context.catalogue.limits.max_step_limit)
    if extended <= limit:
        return None
    return Remedy(dumps({"step_limit": extended}), f"{limit} steps were not enough, and no call repeats.")


def _step_limit(context: Context) -> int | None:
    """The limit that the run reached: by its metrics, else as the error's message says."""
    metrics, error = context.event.metrics, context.event.error
    if metrics is not None and metrics.step_limit:
        return metrics.step_limit if metrics.steps is None or metrics.steps >= metrics.step_limit else None
    said = _STEPS_SAID.search(error.message[:2048]) if error is not None and error.message else None
    return int(said.group(1)) or None if said else None


def repair_history(_: Context) -> Remedy | None:
    """Have the runtime mend the messages that make the history invalid."""
    return Remedy(dumps({"problem": _INVALID_HISTORY}), "The history is refused as long as it stays as it is.")


GENERATORS: Final[dict[Strategy, Generator]] = {
    Strategy.CORRECT_CONTEXT: correct_context,
    Strategy.DECISION_RUBRIC: decision_rubric,
    Strategy.BREAK_LOOP: break_loop,
    Strategy.EXTEND_STEP_LIMIT: extend_step_limit,
    Strategy.REPAIR_HISTORY: repair_history,
}
