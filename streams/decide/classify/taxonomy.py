"""What can be wrong: categories, their subtypes, and which of them pass by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.records import Category

SUBTYPES: Final[Mapping[Category, frozenset[str]]] = {
    Category.HALLUCINATION: frozenset(
        ["range_violation", "enum_violation", "format_violation", "unknown_tool", "unknown_identifier"]
    ),
    Category.TOOL_FAILURE: frozenset(
        [
            "rate_limit",
            "timeout",
            "auth_error",
            "not_found",
            "service_unavailable",
            "network_error",
            "quota_exhausted",
            "content_policy",
            "invalid_request",
            "bad_response",
            "retries_exhausted",
            "unknown",
        ]
    ),
    Category.LOGICAL_ERROR: frozenset(
        [
            "incorrect_assumption",
            "wrong_conclusion",
            "missing_step",
            "incomplete_analysis",
            "loop",
            "invalid_history",
            "state_conflict",
            "missing_context",
            "no_final_answer",
            "runtime_error",
        ]
    ),
    Category.PERFORMANCE: frozenset(["timeout", "out_of_memory", "token_limit_exceeded"]),
    Category.NONE: frozenset({"control_flow"}),
    Category.UNCLASSIFIED: frozenset({"unknown"}),
}
"""The taxonomy: every subtype a verdict may carry."""
TRANSIENT: Final = frozenset({"rate_limit", "timeout", "service_unavailable", "network_error"})
"""What waiting or repeating may cure. To take one of these for a lasting cause, or the reverse, does harm."""
CATEGORY_ORDER: Final = (
    Category.NONE,
    Category.HALLUCINATION,
    Category.TOOL_FAILURE,
    Category.LOGICAL_ERROR,
    Category.PERFORMANCE,
    Category.UNCLASSIFIED,
)
"""Order in which categories are tried."""
