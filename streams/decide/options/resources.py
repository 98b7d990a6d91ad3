"""Remedies for a run that used too much time, memory or context."""

from __future__ import annotations

from typing import Final

from schemas.records import Strategy
from streams.decide.options.context import Context, Generator, Remedy, dumps

CONCISE: Final = "Be concise. Maximum 2 reasoning steps. Output JSON only."
"""Published."""
BATCH_SIZE: Final = 10
"""Published, in answer to 3 GB used of 2 GB allowed."""
_PUBLISHED_OVERSHOOT: Final = 1.5


def reduce_complexity(context: Context) -> Remedy | None:
    """Ask for less."""
    text = CONCISE
    if context.verdict.subtype == "no_final_answer":
        text = f"Give the final answer now, from what you have. {CONCISE}"
    return Remedy(dumps({"text": text, "max_reasoning_steps": 2}), "Fewer steps take less time and fewer tokens.")


def process_in_batches(context: Context) -> Remedy | None:
    """Batches of ten, or fewer in proportion where the overshoot was larger than the published one."""
    overshoot = _overshoot(context)
    if overshoot is None or overshoot <= _PUBLISHED_OVERSHOOT:
        size = BATCH_SIZE
    else:
        size = max(1, int(BATCH_SIZE * _PUBLISHED_OVERSHOOT / overshoot))
    used = f" ({overshoot:.3g} times what was allowed)" if overshoot is not None else ""
    return Remedy(dumps({"batch_size": size}), f"{size} items at a time need less than all of them{used}.")


def _overshoot(context: Context) -> float | None:
    """How many times the limit was used."""
    metrics, memory = context.event.metrics, context.verdict.subtype == "out_of_memory"
    if metrics is not None:
        used, allowed = (
            (metrics.memory_bytes, metrics.memory_limit_bytes) if memory else (metrics.tokens, metrics.token_limit)
        )
        if used and allowed:
            return used / allowed
    measured, limit = context.amount("measured"), context.amount("limit")
    return measured / limit if measured and limit else None


def compress_context(context: Context) -> Remedy | None:
    """Sum up what is in the context, to fit with some room."""
    limit = _token_limit(context)
    headroom = context.catalogue.limits.token_headroom
    if limit is None:
        unknown = "" if context.verdict.subtype == "out_of_memory" else "; the limit is not known"
        return Remedy("{}", f"Half the context needs half the room{unknown}.")
    target = max(1, int(limit * headroom))
    return Remedy(
        dumps({"target_tokens": target}), f"{target} tokens leave room below the limit of {int(limit)} tokens."
    )


def _token_limit(context: Context) -> float | None:
    metrics = context.event.metrics
    if metrics is not None and metrics.token_limit:
        return float(metrics.token_limit)
    if context.verdict.subtype == "token_limit_exceeded" and (limit := context.amount("limit")):
        return limit
    return float(context.model.window_tokens) if context.model is not None else None


GENERATORS: Final[dict[Strategy, Generator]] = {
    Strategy.REDUCE_COMPLEXITY: reduce_complexity,
    Strategy.PROCESS_IN_BATCHES: process_in_batches,
    Strategy.COMPRESS_CONTEXT: compress_context,
}
