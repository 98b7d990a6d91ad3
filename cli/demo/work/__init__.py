"""The kinds of work of the demo: each fails for real, in one way."""

from __future__ import annotations

from typing import Final

from cli.demo.job import Work
from cli.demo.work import calls, control, limits, loans, logic

WORKS: Final[dict[str, Work]] = {
    work.name: work for work in (*loans.WORKS, *calls.WORKS, *logic.WORKS, *limits.WORKS, *control.WORKS)
}
