"""How far each input was applied, as the changelog keeps it: a position, and what was applied beyond it. Pure.

Records take turns, so that some are applied before others that stand in front of them. Each counts once all the same:
the position is that of the first one that was not applied, and the offsets beyond it are told one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any


def packed(applied: Mapping[str, int], ahead: Mapping[str, frozenset[int]]) -> dict[str, int | list[int]]:
    """Topic to its position; where offsets beyond it were applied, a list: position, skipped, applied, skipped, ..."""
    kept: dict[str, int | list[int]] = dict(applied)
    for topic, offsets in ahead.items():
        if offsets:
            at = applied.get(topic, 0)
            kept[topic] = [at, *_runs(at, offsets)]
    return kept


def _runs(position: int, ahead: frozenset[int]) -> list[int]:
    runs: list[int] = []
    end = position
    for _, run in groupby(enumerate(sorted(ahead)), key=lambda place: place[1] - place[0]):
        offsets = [offset for _, offset in run]
        runs += [offsets[0] - end, len(offsets)]
        end = offsets[-1] + 1
    return runs


def unpacked(document: Any) -> tuple[dict[str, int], dict[str, frozenset[int]]]:
    """Positions, and the offsets beyond them. Raises ValueError where it is neither."""
    applied: dict[str, int] = {}
    ahead: dict[str, frozenset[int]] = {}
    try:
        for topic, kept in document.items():
            position, *runs = kept if isinstance(kept, list) else [kept]
            applied[topic] = at = int(position)
            offsets: list[int] = []
            for skipped, count in zip(runs[::2], runs[1::2], strict=True):
                offsets += range(at + skipped, at + skipped + count)
                at += skipped + count
            if offsets:
                ahead[topic] = frozenset(offsets)
    except (AttributeError, TypeError) as error:
        raise ValueError("no positions") from error
    return applied, ahead
