"""Asks an operator's verifier, which may be slow, wrong or broken, so that no failure is lost or waits long by it.

It runs on a thread and event loop of its own: what blocks there blocks nothing else. What it has not answered within
the time limit, raises, or answers in another form than was agreed, counts as not judged.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import orjson

from ops.runtime.metrics import VERIFICATIONS
from schemas.records import FailureEvent
from streams.decide import Claim, Judgement, Verifier

log = logging.getLogger(__name__)

_MAX_CLAIMS: Final = 50
_MAX_VALUE_BYTES: Final = 4096
_SAY_S: Final = 10.0


class VerifierError(Exception):
    """The verifier that the settings name cannot be had."""


def load(path: str) -> Verifier:
    """The verifier called `module:attribute`, or what that class or function makes. Raises VerifierError."""
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        # A class has `verify` too, but nobody to call it on.
        made = found() if inspect.isclass(found) or not hasattr(found, "verify") else found
    except Exception as error:  # importing and making it runs code that is not ours
        raise VerifierError(f"verifier {path}: {type(error).__name__}: {error}") from error
    if not callable(getattr(made, "verify", None)):
        raise VerifierError(f"verifier {path}: it has no method `verify`")
    return cast(Verifier, made)


class Verification:
    """One verifier under a time limit, asked about so many failures at once."""

    def __init__(
        self,
        verifier: Verifier,
        claims: Callable[[FailureEvent], Sequence[Claim]],
        *,
        timeout_s: float,
        concurrency: int,
    ) -> None:
        self.claims = claims
        """What to ask about a failure; nothing to ask: nobody is."""
        self._verifier = verifier
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(concurrency)
        self._quiet_until = 0.0
        self._loop = asyncio.new_event_loop()
        # A verifier that hangs must not keep the process alive.
        threading.Thread(target=self._loop.run_forever, name="verifier", daemon=True).start()

    async def judge(self, event: FailureEvent, claims: Sequence[Claim]) -> tuple[Judgement, ...]:
        """What the verifier says of `claims`; nothing where it did not answer in time, or not properly. The time
        limit includes waiting for others. Never raises."""
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                asked = asyncio.run_coroutine_threadsafe(self._ask(event, list(claims[:_MAX_CLAIMS])), self._loop)
                judgements = await asyncio.wrap_future(asked)
        except TimeoutError:
            VERIFICATIONS.labels("timeout").inc()
            return ()
        except Exception as error:
            VERIFICATIONS.labels("error").inc()
            if (now := asyncio.get_running_loop().time()) >= self._quiet_until:
                self._quiet_until = now + _SAY_S
                # The type alone: an exception's text may quote the failure.
                log.warning("the verifier failed: %s", type(error).__name__)
            return ()
        VERIFICATIONS.labels("judged").inc()
        return judgements

    async def _ask(self, event: FailureEvent, claims: list[Claim]) -> tuple[Judgement, ...]:
        try:
            said = await cast(Awaitable[Any], self._verifier.verify(event, claims))
            return tuple(_checked(judgement, claims) for judgement in said)
        except TimeoutError as error:
            # One of its own: ours would not arrive here.
            raise VerifierError(str(error)) from error


def _checked(judgement: Any, claims: Sequence[Claim]) -> Judgement:
    """The judgement, as plain data. Raises ValueError where it is none, or of a claim that was not asked about."""
    if not isinstance(judgement, Judgement) or judgement.claim not in claims:
        raise ValueError("no judgement of a claim that was given")
    if judgement.holds not in (True, False, None):
        raise ValueError("holds is neither true nor false nor unknown")
    if not (math.isfinite(judgement.confidence) and 0 <= judgement.confidence <= 1):
        raise ValueError("confidence is not between 0 and 1")
    value = orjson.dumps(judgement.correct_value)
    if len(value) > _MAX_VALUE_BYTES:
        raise ValueError("the correct value is too long")
    return replace(judgement, correct_value=orjson.loads(value))
