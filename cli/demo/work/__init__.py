"""The kinds of work of the demo: each fails for real, in one way."""

from __future__ import annotations

from typing import Final

from cli.demo.job import Work
from cli.demo.work import calls, control, limits, loans, logic

FLEETS: Final[dict[str, tuple[Work, ...]]] = {
    "loans": loans.WORKS,
    "calls": calls.WORKS,
    "reasoning": (*logic.WORKS, *limits.WORKS, *control.WORKS),
    "graph": (loans.GRAPH,),
}
"""By the process that does them."""
WORKS: Final[dict[str, Work]] = {work.name: work for works in FLEETS.values() for work in works}
