"""Remedies that change the model: a better one, a faster one, one with a larger window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schemas.records import Strategy
from streams.decide.catalogue import Model
from streams.decide.options.context import Context, Generator, Remedy, dumps
from streams.decide.options.estimate import run_cost_microusd, run_latency_s


def model_upgrade(context: Context) -> Remedy | None:
    """The next better model; with its published confidence only where the model is the bottleneck."""
    current = context.model
    better = _next(context, current, "upgrade")
    if current is None or better is None:
        return None
    bottleneck = context.why_bottleneck
    gain = _gain(current, better, "complex" if context.complex_task else "simple")
    if bottleneck is None:
        return _switch(
            context,
            better,
            f"{better.name} is better{gain}, but nothing says that the model is the bottleneck.",
            context.catalogue.limits.not_bottleneck_factor,
        )
    return _switch(context, better, f"{better.name} is better{gain}, and {bottleneck}.")


def faster_model(context: Context) -> Remedy | None:
    """The next faster model."""
    current = context.model
    faster = _next(context, current, "faster")
    if current is None or faster is None:
        return None
    return _switch(context, faster, f"{faster.name} answers faster than {current.name}.")


def larger_context_model(context: Context) -> Remedy | None:
    """The first model of the ladder whose window holds what the run needed."""
    current = context.model
    if current is None:
        return None
    needed = context.tokens or context.amount("measured")
    least = needed * context.catalogue.limits.window_margin if needed else current.window_tokens + 1
    for model in _chain(context, current):
        if model.window_tokens >= max(least, current.window_tokens + 1):
            return _switch(context, model, f"Its window of {model.window_tokens} tokens holds what was needed.")
    return None


def _switch(context: Context, model: Model, why: str, factor: float = 1.0) -> Remedy:
    text = dumps({"model": model.name, "provider": model.provider})
    return Remedy(text, why, factor, run_cost_microusd(context, model), run_latency_s(context, model))


def _next(context: Context, model: Model | None, direction: str) -> Model | None:
    name = getattr(model, direction) if model is not None else None
    return context.catalogue.models.get(name) if name is not None else None


def _chain(context: Context, model: Model) -> Iterator[Model]:
    following = _next(context, model, "larger")
    while following is not None:
        yield following
        following = _next(context, following, "larger")


def _gain(current: Model, better: Model, task: str) -> str:
    before, after = getattr(current, task), getattr(better, task)
    return f" ({before:.0%} -> {after:.0%} on {task} tasks)" if before is not None and after is not None else ""


GENERATORS: Final[dict[Strategy, Generator]] = {
    Strategy.MODEL_UPGRADE: model_upgrade,
    Strategy.FASTER_MODEL: faster_model,
    Strategy.LARGER_CONTEXT_MODEL: larger_context_model,
}
