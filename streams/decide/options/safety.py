"""Whether a run may simply go on from its checkpoint, or a person must look first."""

from __future__ import annotations

from typing import Final

from schemas.records import Category, SideEffects
from streams.decide.options.context import Context

_MAY_HAVE_EXECUTED: Final = frozenset(
    {"timeout", "service_unavailable", "network_error", "bad_response", "retries_exhausted", "unknown"}
)
"""Tool failures after which the call may have had its effect, where the verdict does not say. 429, 401, 403, 404 and
refused arguments are answers of a service that did nothing."""


def forbids_repeat(context: Context) -> str | None:
    """Why nothing may be repeated automatically, or None where it may."""
    event = context.event
    effects = event.side_effects_since_checkpoint
    if effects is SideEffects.UNSAFE:
        return "The run did what must not be done twice since its checkpoint."
    if effects is not SideEffects.UNKNOWN or context.verdict.category is not Category.TOOL_FAILURE or context.of_model:
        return None
    if event.tool_response is not None and event.tool_response.idempotency_key:
        return None
    executed = context.details.get("call_may_have_executed")
    if not isinstance(executed, bool):
        executed = context.verdict.subtype in _MAY_HAVE_EXECUTED
    if not executed:
        return None
    return "The call may have had its effect, and neither its side effects nor an idempotency key are known."
