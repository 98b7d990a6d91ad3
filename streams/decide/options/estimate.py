"""What one attempt costs and how long it takes, from tokens, prices and durations where they are known."""

from __future__ import annotations

from typing import Final

from streams.decide.catalogue import Model
from streams.decide.options.context import Context

_CHARS_PER_TOKEN: Final = 4
_MAX_MICROUSD: Final = 2**53
_MAX_SECONDS: Final = 1e9


def run_cost_microusd(context: Context, model: Model | None, turns: int = 1, added_chars: int = 0) -> int | None:
    """Micro-dollars for running again on `model`, with `added_chars` more to read; None: tokens or prices unknown."""
    tokens = context.tokens
    if tokens is None or model is None:
        return None
    written = context.catalogue.limits.output_share
    price_usd = model.input_usd * (1 - written) + model.output_usd * written
    # Dollars per million tokens are micro-dollars per token.
    cost = turns * (tokens * price_usd + added_chars / _CHARS_PER_TOKEN * model.input_usd)
    return min(round(cost), _MAX_MICROUSD)


def run_latency_s(context: Context, model: Model | None = None, turns: int = 1) -> float | None:
    """Seconds for running again; None: neither the model's speed nor the run's duration is known."""
    metrics = context.event.metrics
    if metrics is None:
        return None
    if model is not None and model.tokens_per_s is not None and metrics.tokens is not None:
        written = metrics.tokens * context.catalogue.limits.output_share
        return min(turns * written / model.tokens_per_s, _MAX_SECONDS)
    if metrics.duration_s is None:
        return None
    return min(turns * metrics.duration_s, _MAX_SECONDS)
