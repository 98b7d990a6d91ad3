"""The worker: reports in; permits, the standing of dependencies and incidents out. Recover's machinery."""

from __future__ import annotations

import sys
import threading
from typing import Final

from ops.runtime.logs import configure
from ops.runtime.settings import Settings
from processors.govern.book import Book
from processors.govern.observe import forget, observe
from processors.recover import main
from processors.recover.role import Role
from processors.recover.view import NOTHING
from schemas.topics import DEPENDENCIES, DEPENDENCY_REPORTS

GOVERN: Final = Role(
    name="govern",
    inputs=(DEPENDENCY_REPORTS,),
    state=DEPENDENCIES,
    ledger=Book,
    floods=(DEPENDENCY_REPORTS,),
    # Each dependency's reports are few, and one that waits makes none of the others wrong.
    flow=lambda raw: (b"", raw.topic.encode()),
    observe=observe,
    forget=forget,
    watch=lambda *_: ({}, NOTHING),
)


def run(settings: Settings, *, transactional: bool = True, stop: threading.Event | None = None) -> int:
    """Work until SIGTERM, SIGINT or `stop`; the exit code. `transactional=False`: for the in-process broker only."""
    return main.run(settings, transactional=transactional, stop=stop, role=GOVERN)


if __name__ == "__main__":
    configure(loaded := Settings())
    sys.exit(run(loaded))
