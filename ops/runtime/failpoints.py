"""Named places where a test makes a worker die, fail or stall.

`OMIUM_FAILPOINTS="recover.before-commit=exit@3,audit.inserted=raise@1,streams.sent=pause:2.0@1"`: at the third hit of
the first name the process ends as if killed, the first hit of the second raises `FailpointError`, the first hit of
the third sleeps two seconds. Without `@` it happens at every hit. Unset, a hit costs one look at an empty mapping.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

VARIABLE: Final = "OMIUM_FAILPOINTS"
EXIT_CODE: Final = 137
"""What a shell shows for SIGKILL."""
_ENTRY: Final = re.compile(
    r"(?P<name>[\w.-]+)=(?P<action>exit|raise|pause:(?P<seconds>\d+(\.\d+)?))(@(?P<at>[1-9]\d*))?"
)


class FailpointError(Exception):
    """Raised by a failpoint that was told to."""


@dataclass(frozen=True, slots=True)
class _Failpoint:
    name: str
    action: str
    seconds: float
    at: int | None
    """The hit at which it acts, from 1; None: each."""
    hits: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def hit(self) -> None:
        if self.at not in (None, next(self.hits)):
            return
        print(f"failpoint {self.name}: {self.action}", file=sys.stderr, flush=True)  # noqa: T201  tests look for it
        if self.action == "exit":
            os._exit(EXIT_CODE)
        if self.action == "raise":
            raise FailpointError(self.name)
        time.sleep(self.seconds)


def _parse(text: str) -> dict[str, _Failpoint]:
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        # A typo that is passed over is a crash test that tests nothing.
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"{VARIABLE}: {entry!r} is not name=exit|raise|pause:SECONDS[@HIT]")
        at = int(match["at"]) if match["at"] else None
        found[match["name"]] = _Failpoint(
            match["name"], match["action"].partition(":")[0], float(match["seconds"] or 0), at
        )
    return found


_armed: dict[str, _Failpoint] = _parse(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Do what the failpoint `name` was told to, if anything."""
    if _armed and (failpoint := _armed.get(name)) is not None:
        failpoint.hit()


def arm(text: str) -> None:
    """Replace all failpoints of this process by those of `text`; the empty text disarms all."""
    armed = _parse(text)
    _armed.clear()
    _armed.update(armed)
