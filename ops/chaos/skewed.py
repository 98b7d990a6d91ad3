"""Runs a module whose clock may be off: `OMIUM_CHAOS_CLOCK_S=1800 python -m ops.chaos.skewed cli.main worker streams`.

Only what Python code calls the time of day is shifted. libfaketime shifts more, and makes Python 3.11's `time.sleep`
fail: it does not know waits until a moment of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import runpy
import sys
import time
from typing import Any, Final

VARIABLE: Final = "OMIUM_CHAOS_CLOCK_S"


def skew(offset_s: float) -> None:
    """Shift `time.time` and `datetime.now` for all modules that are imported from now on."""
    true: Any = datetime.datetime
    offset = datetime.timedelta(seconds=offset_s)
    true_s, true_ns = time.time, time.time_ns

    class Instances(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, true)

    class Skewed(true, metaclass=Instances):  # type: ignore[misc]
        # Without a dict: C code that was built for the true one measures it.
        __slots__ = ()

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            # Never an instance of this class: orjson and the client of ClickHouse take the true one alone.
            return true(*args, **kwargs)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return true.now(tz) + offset

        @classmethod
        def utcnow(cls) -> Any:
            return true.utcnow() + offset

    time.time = lambda: true_s() + offset_s
    time.time_ns = lambda: true_ns() + round(offset_s * 1e9)
    datetime.datetime = Skewed  # type: ignore[misc]


def main() -> None:
    if offset_s := float(os.environ.get(VARIABLE, 0)):
        with contextlib.suppress(ImportError):
            # chDB imports it at the first query. Its C code was built for the true datetime: with ours it crashes.
            importlib.import_module("pandas")
        skew(offset_s)
        print(f"clock off by {offset_s:+.0f} s", file=sys.stderr, flush=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
