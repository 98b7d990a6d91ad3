"""One thing that is wrong with an output."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from schemas.records import Severity

MAX_VIOLATIONS: Final = 50
_SEVERITY: Final = {"range_violation": Severity.HIGH, "enum_violation": Severity.HIGH}
_SOFT: Final = frozenset({"required", "null", "output", "json_in_prose"})


class Violation(NamedTuple):
    """One thing that is wrong with the output."""

    subtype: str
    path: str
    """Dotted, as in `items.0.price`; empty for the output as a whole."""
    rule: str
    """What was broken: range, enum, pattern, required, null, type, cross_field, or a JSON Schema keyword."""
    actual: Any
    message: str
    limits: Mapping[str, Any] = MappingProxyType({})
    """valid_range, allowed_values, pattern or schema; nearest where an allowed value is close."""

    @property
    def soft(self) -> bool:
        """Whether something is missing rather than wrong: a failed tool explains that as well."""
        return self.rule in _SOFT

    @property
    def severity(self) -> Severity:
        return _SEVERITY.get(self.subtype, Severity.MEDIUM)


def shown(value: Any) -> str:
    """The value for a sentence, cut."""
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
