"""Garbage collection of a worker."""

from __future__ import annotations

import gc
from typing import Final

_THRESHOLDS: Final = (20_000, 20, 20)
"""Python's own first is 700: a batch of a hundred records makes as many objects before it is done with any."""


def settle() -> None:
    """What was loaded at start stays for good: collections pass over it, and come seldom. Call it once, when ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
