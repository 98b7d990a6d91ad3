"""What a process of the fleet has to do, and how it tells how its runs ended."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

TENANT: Final = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run."""

    execution_id: str
    work: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of one process."""

    bootstrap: str
    services_port: int
    every_s: float
    """Time between the starts of two runs."""
    wait_s: float
    """Patience of an agent that waits for its command."""
    runs: tuple[Planned, ...]

    def save(self, path: Path) -> None:
        """Write it for the process."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        fields = json.loads(path.read_text())
        return cls(**{**fields, "runs": tuple(Planned(**run) for run in fields["runs"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How one run ended, as its own process saw it."""

    execution_id: str
    failures: int
    """How often it failed on the way."""
    output: Any = None
    right: bool = False
    """Whether the output is what the work was for."""
    error: str = ""


class Reports:
    """The reports of one process: a file with a JSON line each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def add(self, report: Report) -> None:
        """Append one."""
        with self._lock:
            self._file.write(json.dumps(asdict(report)) + "\n")

    def close(self) -> None:
        self._file.close()


def read_reports(path: Path) -> list[Report]:
    """All whole reports so far."""
    if not path.exists():
        return []
    return [Report(**json.loads(line)) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
