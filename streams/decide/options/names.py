"""Remedies for names that do not exist: a tool, a model, a column, a resource."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

from schemas.records import Strategy
from streams.decide.options.context import Context, Generator, Remedy, dumps
from streams.decide.options.quoting import identifier, listed, name, with_note

_CLOSE: Final = 0.6
"""Least similarity (difflib's ratio, its own default) of a name that is meant."""
_MAX_KNOWN: Final = 50
_NOT_CLOSE_FACTOR: Final = 0.8
"""Of the confidence, where no existing name is close and the model must choose among all of them."""


def correct_identifier(context: Context) -> Remedy | None:
    """The closest existing name in place of the wrong one; where none is close, the names to choose from."""
    wrong = _wrong(context)
    if wrong is None:
        return None
    known = _known(context)
    right = _nearest(context, wrong, known)
    if right is None and not known:
        return None
    parameters: dict[str, Any] = {"wrong": identifier(wrong), "known": known}
    if right is not None:
        text = f"{name(wrong)} does not exist. Use {name(right)} instead."
        return Remedy(
            dumps({**parameters, "right": identifier(right), "text": with_note(text)}),
            f"{name(right)} is the closest name that exists.",
        )
    text = f"{name(wrong)} does not exist. Choose one of {listed(known)}."
    return Remedy(dumps({**parameters, "text": with_note(text)}), "Names what exists.", _NOT_CLOSE_FACTOR)


def _wrong(context: Context) -> str | None:
    for key in ("identifier", "wrong", "name", "actual_value", "resource"):
        if value := context.detail(key):
            return value[:256]
    if context.verdict.subtype == "unknown_tool":
        return context.tool
    if context.of_model and context.verdict.subtype == "not_found":
        return context.model_name
    return None


def _known(context: Context) -> list[str]:
    """The names that exist, as far as they are known."""
    for key in ("known", "known_names", "allowed_values"):
        values = context.details.get(key)
        if isinstance(values, list) and values:
            return [identifier(value) for value in values[:_MAX_KNOWN] if isinstance(value, str)]
    if context.verdict.subtype == "unknown_tool" and context.event.execution is not None:
        return [identifier(tool) for tool in context.event.execution.tools[:_MAX_KNOWN]]
    return []


def _nearest(context: Context, wrong: str, known: Sequence[str]) -> str | None:
    violations = context.details.get("violations")
    first = violations[0] if isinstance(violations, list) and violations else None
    nearest = context.detail("nearest") or (first.get("nearest") if isinstance(first, dict) else None)
    if isinstance(nearest, str) and nearest != wrong:
        return nearest[:256]
    if context.of_model and context.verdict.subtype == "not_found":
        known = list(context.catalogue.models)
    by_folded = {candidate.lower(): candidate for candidate in known if candidate != wrong}
    close = get_close_matches(wrong.lower()[:64], by_folded, n=1, cutoff=_CLOSE)
    return by_folded[close[0]] if close else None


GENERATORS: Final[dict[Strategy, Generator]] = {Strategy.CORRECT_IDENTIFIER: correct_identifier}
