"""Bugs that somebody could write are caught; those that only a run on a broker catches: `make chaos-planted`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ops.chaos.bugs import BUGS, Bug, Simulation
from ops.chaos.planted import ROOT, UnfitError, changes, plant


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_fits_the_source(bug: Bug) -> None:
    """And is what somebody could write: a name that does not exist would be caught by whatever runs it."""
    changed = changes(bug, ROOT)
    assert changed
    for path, source in changed.items():
        ruff = [sys.executable, "-m", "ruff", "check", "--select", "F821", "--stdin-filename", str(path), "-"]
        found = subprocess.run(ruff, input=source, capture_output=True, text=True, cwd=ROOT, check=False)
        assert found.returncode == 0, found.stdout


def test_a_bug_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UnfitError, match="stands 0 times"):
        changes(Bug("old", "processors/recover", (("what nobody wrote", ""),), Simulation()), ROOT)


@pytest.mark.timeout(300)
def test_the_simulation_notices() -> None:
    bugs = [bug for bug in BUGS if isinstance(bug.caught_by, Simulation)]
    assert len(bugs) >= 10
    escaped = [name for name, by in plant(bugs).items() if by is None]
    assert not escaped
