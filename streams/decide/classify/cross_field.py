"""Rules between fields: `end_date > start_date`, `total == subtotal + tax`.

In the constraints they stand under `rules`: a list of such texts, or of {"name": ..., "rule": text}. A side is a
field's path, a
number, or a sum and difference of those; a comparison is one of == != < <= > >=. A rule whose fields are missing says
nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import re2

from streams.decide.classify.values import instant, number
from streams.decide.classify.violation import Violation, shown

RULES_KEYS: Final = ("rules", "$rules", "cross_field")
_MAX_RULES: Final = 50
_COMPARISON: Final = re2.compile(r"^\s*([^<>=!]{1,200}?)\s*(==|!=|<=|>=|<|>)\s*([^<>=!]{1,200}?)\s*$")
_TERM: Final = re2.compile(r"([+-]?)\s*(\d+(?:\.\d+)?|[A-Za-z_$][\w$]*(?:\.[\w$]+)*)\s*")
_TOLERANCE: Final = 1e-6
"""Relative: cents of a sum add up although their floats do not."""


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(left == right)


_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": operator.lt,
    "<=": lambda left, right: left < right or _equal(left, right),
    ">": operator.gt,
    ">=": lambda left, right: left > right or _equal(left, right),
}


@dataclass(frozen=True, slots=True)
class _Rule:
    left: tuple[tuple[int, str], ...]
    compare: str
    right: tuple[tuple[int, str], ...]


def cross_field_violations(rules: Any, value_at: Callable[[str], Any], missing: object) -> Iterator[Violation]:
    """Violations of the rules; `value_at(path)` gives a field's value, or `missing`."""
    for entry in rules[:_MAX_RULES] if isinstance(rules, list) else []:
        text = entry.get("rule") if isinstance(entry, dict) else entry
        rule = _parsed(text) if isinstance(text, str) else None
        if rule is None:
            continue
        sides = [_sum(side, value_at, missing) for side in (rule.left, rule.right)]
        if None in sides or type(sides[0]) is not type(sides[1]) or _COMPARE[rule.compare](*sides):
            continue
        fields = {name: value_at(name) for _, name in (*rule.left, *rule.right) if not name[0].isdigit()}
        said = ", ".join(f"{name} = {shown(value)}" for name, value in fields.items())
        path = next(iter(fields), "")
        yield Violation(
            "range_violation",
            path,
            "cross_field",
            fields.get(path),
            f"{text} does not hold: {said}",
            {"cross_field": text, "values": fields},
        )


@lru_cache(maxsize=512)
def _parsed(text: str) -> _Rule | None:
    match = _COMPARISON.match(text) if len(text) <= 500 else None
    if match is None:
        return None
    left, right = _terms(match.group(1)), _terms(match.group(3))
    return _Rule(left, match.group(2), right) if left and right else None


def _terms(text: str) -> tuple[tuple[int, str], ...] | None:
    """Signed names and numbers of a sum, or None where the text is none."""
    terms: list[tuple[int, str]] = []
    position = 0
    while position < len(text):
        match = _TERM.match(text[position:])
        if match is None or (terms and not match.group(1)):
            return None
        terms.append((-1 if match.group(1) == "-" else 1, match.group(2)))
        position += match.end()
    return tuple(terms)


def _sum(terms: tuple[tuple[int, str], ...], value_at: Callable[[str], Any], missing: object) -> Any:
    """The value of one side: a number, a time where it is one field that holds one, a text, or None."""
    values = [float(name) if name[0].isdigit() else value_at(name) for _, name in terms]
    if any(value is missing or value is None for value in values):
        return None
    numbers = [number(value) for value in values]
    if None not in numbers:
        return math.fsum(sign * value for (sign, _), value in zip(terms, numbers, strict=True) if value is not None)
    if len(values) == 1 and isinstance(values[0], str):
        return instant(values[0]) or values[0]
    return None
