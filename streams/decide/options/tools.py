"""Remedies for a call that failed: wait and repeat, allow more time, go elsewhere, repair the call."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from schemas.records import Category, Strategy
from streams.decide.options.context import Context, Generator, Remedy, dumps
from streams.decide.options.durations import timeout_said_s
from streams.decide.options.quoting import identifier, name, quoted, with_note
from streams.decide.options.waiting import Asked, asked

BACKOFF: Final = {"max_attempts": 5, "base_delay_s": 1.0, "multiplier": 2.0, "max_delay_s": 60.0, "jitter": 0.2}
"""Published: 5 attempts after 1, 2, 4, 8 and 16 s; the jitter keeps a fleet from coming back at once."""
ONCE: Final = {**BACKOFF, "max_attempts": 1}
_PUBLISHED_TIMEOUT_S: Final = 60.0
_TIMEOUT_FACTOR: Final = 2.0
"""Published: 30 s -> 60 s."""
_OBSERVED_MARGIN: Final = 1.5
POLL_INTERVAL_S: Final = 10.0
MAX_POLLS: Final = 30
_REGISTERED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:@+-]{0,127}", re.ASCII)
"""A registered name. No slash: an event may name a service, never an address."""


def exponential_backoff(context: Context) -> Remedy | None:
    """Repeat the call, first after the time that the service asked for; not where that is long, or no wait helps."""
    if context.details.get("lasting") is True:
        return None
    wait_s = _wait_s(context)
    if wait_s is None:
        return None
    if not wait_s:
        return Remedy(_repeat(context, BACKOFF, 0.0), "Such a failure mostly passes by itself; each wait doubles.")
    why = f"The service asked to wait {wait_s:.4g} s."
    return Remedy(_repeat(context, BACKOFF, wait_s), why, latency_s=wait_s + BACKOFF["base_delay_s"])


def retry_once(context: Context) -> Remedy | None:
    """One more try, in case it was chance."""
    if context.details.get("lasting") is True:
        return None
    wait_s = _wait_s(context)
    if wait_s is None:
        return None
    latency_s = wait_s + context.catalogue.strategies[Strategy.RETRY_ONCE].latency_s
    return Remedy(_repeat(context, ONCE, wait_s), "One repeat tells chance from a lasting fault.", latency_s=latency_s)


def async_execution(context: Context) -> Remedy | None:
    """Submit the call and poll for its result, where the tool can."""
    response = context.event.tool_response
    if response is None or not response.supports_async:
        return None
    wait = _allowed_s(context)
    return Remedy(
        dumps({"poll_interval_s": POLL_INTERVAL_S, "max_polls": MAX_POLLS}),
        "The tool can be asked for its result later, so nothing has to wait for it.",
        latency_s=min(_TIMEOUT_FACTOR * wait + POLL_INTERVAL_S, MAX_POLLS * POLL_INTERVAL_S) if wait else None,
    )


def increase_timeout(context: Context) -> Remedy | None:
    """Twice the time that was too short, or half as much again as was observed, whichever is longer."""
    before, observed = _allowed_s(context), _observed_s(context)
    wanted = max(_TIMEOUT_FACTOR * (before or 0.0), _OBSERVED_MARGIN * (observed or 0.0)) or _PUBLISHED_TIMEOUT_S
    # The cap first: a claimed duration may be too large to round.
    after = math.ceil(min(wanted, context.catalogue.limits.max_timeout_s))
    if before is not None and after <= before:
        return None
    why = f"{before:g} s were too short." if before else "The time allowed was too short."
    return Remedy(dumps({"timeout_s": float(after)}), why, latency_s=((before or after / 2) + after) / 2)


def _allowed_s(context: Context) -> float | None:
    """The time that was too short. A call's message says its own; the runtime's limit may be the whole run's."""
    said = context.message if context.verdict.category is Category.TOOL_FAILURE else None
    return (timeout_said_s(said) if said else None) or context.timeout_s


def _observed_s(context: Context) -> float | None:
    """How long it took, where that is the time of what timed out and not of the run around it."""
    metrics, said = context.event.metrics, context.message
    if metrics is None or (context.verdict.category is Category.TOOL_FAILURE and said and timeout_said_s(said)):
        return None
    return metrics.duration_s


def refresh_credentials(context: Context) -> Remedy | None:
    """New credentials for the service that refused the old ones."""
    service = context.tool or (context.model.provider if context.model is not None else None) or "default"
    why = "The service refused the credentials; they may have expired."
    if context.verdict.subtype == "quota_exhausted":
        why = "Other credentials may have quota left."
    return Remedy(dumps({"service": identifier(service)}), why)


def fallback_service(context: Context) -> Remedy | None:
    """The first service that the tool's registration names, else the catalogue."""
    failed = context.tool or (context.model_name if context.of_model else None)
    for service in _fallbacks(context):
        if service != failed:
            parameters = {"service": service} | ({"instead_of": identifier(failed)} if failed else {})
            return Remedy(dumps(parameters), f"{service} can stand in.")
    return None


def repair_arguments(context: Context) -> Remedy | None:
    """Have the model make the call again, told what was wrong with it."""
    tool = context.tool
    said = context.message
    text = with_note(
        f"The last call{f' of {name(tool)}' if tool else ''} was refused: its arguments are not valid.",
        f"The service said: {quoted(said, 300)}" if said else "",
        "Make the arguments again so that they are valid. Never repeat the same call unchanged.",
    )
    parameters = {"text": text} | ({"tool": identifier(tool)} if tool else {})
    return Remedy(dumps(parameters), "The same arguments would be refused again; the model corrects them.")


def rephrase_request(_: Context) -> Remedy | None:
    """Ask the same in other words, after a content filter declined."""
    text = (
        "The previous request was declined by a content filter. Fulfil the task in neutral, factual words, leave out "
        "everything that it does not need, and never try to get around the filter. "
        "If it cannot be done within the policy, output 'UNABLE_TO_COMPLETE' instead."
    )
    return Remedy(dumps({"text": text}), "The words were declined, perhaps not the task.")


def _wait_s(context: Context) -> float | None:
    """Seconds to wait before a repeat; None: longer than is sat out, or the service wants no repeat."""
    said: Asked | None = context.memo.get("asked")
    if said is None:
        said = context.memo["asked"] = asked(context.event, context.now)
    wait_s = said.wait_s if said.wait_s is not None else context.amount("retry_after_s") or 0.0
    return None if said.never or wait_s > context.catalogue.limits.retry_after_cap_s else wait_s


def _repeat(context: Context, how: Mapping[str, float], wait_s: float) -> str:
    parameters = {**how, "initial_delay_s": wait_s}
    execution = context.event.execution
    if execution is not None and execution.sdk_retries:
        # Stacked owners of retries multiply the calls: the SDK's own are switched off.
        parameters["sdk_retries"] = 0
    return dumps(parameters)


def _fallbacks(context: Context) -> list[str]:
    response = context.event.tool_response
    registered = response.fallbacks if response is not None else ()
    names = [service for service in registered[:20] if _REGISTERED.fullmatch(service)]
    table = context.catalogue.fallbacks
    keys = [context.tool]
    if context.of_model or context.tool is None:
        keys += [context.model_name, context.model.provider if context.model is not None else None]
    for key in keys:
        if key is not None:
            names.extend(table.get(key, ()))
    return names


GENERATORS: Final[dict[Strategy, Generator]] = {
    Strategy.EXPONENTIAL_BACKOFF: exponential_backoff,
    Strategy.RETRY_ONCE: retry_once,
    Strategy.ASYNC_EXECUTION: async_execution,
    Strategy.INCREASE_TIMEOUT: increase_timeout,
    Strategy.REFRESH_CREDENTIALS: refresh_credentials,
    Strategy.FALLBACK_SERVICE: fallback_service,
    Strategy.REPAIR_ARGUMENTS: repair_arguments,
    Strategy.REPHRASE_REQUEST: rephrase_request,
}
