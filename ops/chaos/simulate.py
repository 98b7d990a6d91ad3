"""Seeded worlds around the reducer, on all cores: `python -m ops.chaos.simulate --seeds 1000000`; ends with JSON.

The worlds stand with the tests, in `tests/processors/recover/recover_simulation.py`; CI runs the first 50,000.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Final

_WORLDS: Final = Path(__file__).parents[2] / "tests" / "processors" / "recover"
_SHARE: Final = 500


def share(seeds: range) -> Counter[str]:
    """What happened in the worlds of `seeds`. Raises AssertionError that names the seed in which something broke."""
    if str(_WORLDS) not in sys.path:
        sys.path.insert(0, str(_WORLDS))
    events: Counter[str] = import_module("recover_simulation").simulate(seeds)
    return events


def _told(shares: list[range], processes: int) -> Iterator[Counter[str]]:
    if not processes:
        yield from map(share, shares)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(share, shares)
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.chaos.simulate")
    parser.add_argument("--seeds", type=int, default=50_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="0: this one")
    args = parser.parse_args()
    end = args.first + args.seeds
    shares = [range(first, min(first + _SHARE, end)) for first in range(args.first, end, _SHARE)]
    begun_s = time.monotonic()
    events: Counter[str] = Counter()
    broken, done = None, 0
    try:
        for number, told in enumerate(_told(shares, args.processes)):
            events += told
            done += len(shares[number])
            if done % 100_000 == 0:
                print(f"{done} seeds", file=sys.stderr, flush=True)
    except AssertionError as error:
        broken = str(error)
    taken_s = time.monotonic() - begun_s
    line = {"seeds": done, "seeds_per_s": round(done / taken_s), "broken": broken, "events": events}
    print(json.dumps(line))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
