"""The short form of the chaos suite: workers of all kinds killed at named places and woken as zombies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_happens_twice(tmp_path: Path) -> None:
    arguments = ["--nodes", "1", "--failures", "600", "--rate", "40", "--faults", "6", "--seed", "11"]
    done = subprocess.run(
        [sys.executable, "-m", "ops.chaos", *arguments, "--settle-s", "240", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["failures"] >= 600
    assert verdict["faults"] == 6
    assert verdict["duplicates_dropped"] > 0, "agents send some failures twice: the run proved nothing"
    assert (verdict["lost"], verdict["commands_twice"], verdict["audit_missing"]) == (0, 0, 0)
