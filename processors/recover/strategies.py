"""A strategy and its parameters become typed modifications, and the time that they may take."""

from __future__ import annotations

from typing import Final

from processors.recover.ids import digest
from processors.recover.state import Branch
from schemas.modifications import (
    PARAMETERS,
    Parameters,
    RunAsync,
    SetRetry,
    SetTimeout,
    SummarizeTrajectory,
    UseFallback,
    parameters,
)
from schemas.records import Modification, ModificationKind, Option, Strategy

MAX_PARAMETERS_CHARS: Final = 64 * 1024
"""Longer ones would not fit the commands topic when branches are merged."""
_ONCE: Final = frozenset(
    {
        ModificationKind.SET_OUTPUT_SCHEMA,
        ModificationKind.SET_MODEL,
        ModificationKind.SET_RETRY,
        ModificationKind.SET_TIMEOUT,
        ModificationKind.RUN_ASYNC,
        ModificationKind.REDUCE_COMPLEXITY,
        ModificationKind.SET_BATCH_SIZE,
        ModificationKind.COMPRESS_CONTEXT,
        ModificationKind.SET_STEP_LIMIT,
        ModificationKind.SUMMARIZE_TRAJECTORY,
    }
)
"""Settings of the run: of two branches that ask, the first gets its way. The other kinds add up."""


def remedy(option: Option) -> Parameters:
    """The typed parameters of `option`. Raises ValueError where they do not fit its strategy."""
    if option.strategy not in PARAMETERS:
        raise ValueError("no modification carries it out")
    if len(option.parameters) > MAX_PARAMETERS_CHARS:
        raise ValueError("parameters too large")
    return parameters(option.strategy, option.parameters)


def fallback_of(option: Option) -> str | None:
    """The tool that the run would call instead of the one that failed."""
    if PARAMETERS.get(option.strategy) is not UseFallback:
        return None
    change = remedy(option)
    return change.service if isinstance(change, UseFallback) else None


def action(option: Option, fingerprint: str | None, subtype: str) -> str:
    """What `option` would do: equal for what must not be done twice. Another wait is not another action."""
    same = "" if option.strategy in (Strategy.EXPONENTIAL_BACKOFF, Strategy.RETRY_ONCE) else option.parameters
    return digest("action", option.strategy, fingerprint or "", subtype, same)[:16]


def apply(option: Option, branch: Branch, subtype: str) -> tuple[Parameters, ...]:
    """The changes to the run that carry out `option`. Raises ValueError where it cannot be carried out."""
    change = remedy(option)
    if isinstance(change, SetRetry) and branch.sdk_retries:
        # Stacked retries sent 12 requests where 4 were meant: one party owns them.
        change = change.model_copy(update={"sdk_retries": 0})
    if not branch.summarizes:
        return (change,)
    text = (
        f"An earlier attempt at this task failed ({subtype.replace('_', ' ')}) and was removed from this "
        f"conversation. Do not repeat it; start again from the state before it."
    )
    return (change, SummarizeTrajectory(text=text))


def merge(changes: list[tuple[Parameters, ...]]) -> tuple[Parameters, ...]:
    """The changes of parallel branches as one list, without repeats and contradictions."""
    merged: list[Parameters] = []
    for change in (change for branch in changes for change in branch):
        if change in merged or (change.kind in _ONCE and any(change.kind is other.kind for other in merged)):
            continue
        merged.append(change)
    return tuple(merged)


def after_waiting(changes: tuple[Parameters, ...], waited_s: float) -> tuple[Parameters, ...]:
    """The changes for a run that was held so long: what it was to wait before its first call has mostly passed."""
    return tuple(
        change.model_copy(update={"initial_delay_s": max(0.0, change.initial_delay_s - waited_s)})
        if isinstance(change, SetRetry) and waited_s > 0
        else change
        for change in changes
    )


def modifications(changes: tuple[Parameters, ...]) -> tuple[Modification, ...]:
    """As a command carries them."""
    return tuple(change.modification() for change in changes)


def changes_arguments(changes: tuple[Parameters, ...]) -> bool:
    """Whether the failed call is made with other arguments: then its idempotency key must not be reused."""
    kinds = {change.kind for change in changes}
    return bool(kinds & {ModificationKind.REPAIR_ARGUMENTS, ModificationKind.SET_IDENTIFIER})


def work_s(changes: tuple[Parameters, ...], call_s: float) -> float:
    """The longest that the modifications themselves may take, in seconds. `call_s`: one call."""
    return sum(_work_s(change, call_s) for change in changes)


def _work_s(change: Parameters, call_s: float) -> float:
    match change:
        case SetRetry():
            delays, delay_s = 0.0, change.base_delay_s
            for _ in range(change.max_attempts):
                delays += min(delay_s, change.max_delay_s)
                delay_s *= change.multiplier  # a power would raise where this is infinite
            return change.initial_delay_s + delays * (1 + change.jitter) + change.max_attempts * call_s
        case RunAsync():
            return change.max_polls * (change.poll_interval_s + 1)
        case SetTimeout():
            return change.timeout_s
        case _:
            return 0.0
