"""50,000 seeded worlds; a million by hand: see recover_simulation."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from recover_simulation import simulate

_SEEDS = 50_000
_SHARE = 1_000


@pytest.mark.timeout(900)  # half a minute on two idle cores
def test_what_must_hold_holds_in_fifty_thousand_worlds() -> None:
    shares = [range(first, first + _SHARE) for first in range(0, _SEEDS, _SHARE)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        events: Counter[str] = sum(pool.map(simulate, shares), Counter())
    # A run in which these do not happen shows nothing.
    for kind in (
        "restarts",
        "aborts",
        "duplicate",
        "stale",
        "phantom",
        "success",
        "partial",
        "failed",
        "ignored",
        "held",
        "refused",
        "paused",
    ):
        assert events[kind] > _SEEDS / 100, (kind, events)
