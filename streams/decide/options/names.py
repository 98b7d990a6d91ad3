"""Remedies for names that do not exist: a tool, a model, a column, a resource."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

from schemas.records import Strategy
from streams.decide.options.context import Context, Generator, Remedy, dumps
from streams.decide.options.quoting import identifier, listed, name, with_note

_CLOSE: Final = 0.6
"""Least similarity (difflib's ratio, its own default) of a name that is meant."""
_NAME: Final = r"([A-Za-z_][A-Za-z0-9_.:/-]{0,79}[A-Za-z0-9_])"
_QUOTED: Final = re.compile(rf"[`'\"]{_NAME}[`'\"]", re.ASCII)
_NAMED: Final = re.compile(
    rf"(?:not found:|unknown \w{{1,12}}:?|\b(?:tool|function|action|column|table|model|field|attribute|method))"
    rf"\s(?!not\b|does\b|is\b|call\b|with\b|name\b|was\b|of\b){_NAME}",
    re.ASCII | re.IGNORECASE,
)
"""`Tool not found: get_status`, `Tool get_wether not found in agent`, `column user.id does not exist`."""
_MAX_KNOWN: Final = 50
_NOT_CLOSE_FACTOR: Final = 0.8
"""Of the confidence, where no existing name is close and the model must choose among all of them."""


def correct_identifier(context: Context) -> Remedy | None:
    """The closest existing name in place of the wrong one; where none is close, the names to choose from."""
    wrong = wrong_name(context)
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


def wrong_name(context: Context) -> str | None:
    """The name that does not exist, where the evidence says it."""
    for key in ("identifier", "wrong", "name", "actual_value", "resource"):
        if value := context.detail(key):
            return value[:256]
    if context.of_model and context.verdict.subtype == "not_found":
        return context.model_name
    said = _named_in(context.message) if context.message else None
    return said or (context.tool if context.verdict.subtype == "unknown_tool" else None)


def _named_in(message: str) -> str | None:
    """The name that a message says does not exist."""
    match = _QUOTED.search(message[:1024]) or _NAMED.search(message[:1024])
    return match.group(1) if match else None


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
