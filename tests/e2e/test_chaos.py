"""The short form of the chaos suite: kills inside a transaction, zombies, a replay, ClickHouse gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = (
    "failpoint:recover.offsets_sent@4",
    "kill_worker:streams",
    "zombie_in_transaction",
    "replay:recover",
    "clickhouse_gone:3",
    "kill_agents",
)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_happens_twice(tmp_path: Path) -> None:
    arguments = ["--nodes", "1", "--failures", "600", "--rate", "40", "--seed", "11", "--prompt", "--only"]
    done = subprocess.run(
        [sys.executable, "-m", "ops.chaos", *arguments, ",".join(FAULTS), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["failures"] >= 600
    assert verdict["faults"] >= len(FAULTS) - 1, "a fault may not come about where the machine is too slow for it"
    for name in ("failure duplicate", "failure forwarded", "options stale", "garbage", "forgery refused"):
        assert verdict["sometimes"][name] > 0, f"{name} never happened: the run proved nothing"
    assert all(looked_at and not broken for looked_at, broken in verdict["invariants"].values())
    assert (verdict["lost"], verdict["commands_twice"], verdict["audit_missing"]) == (0, 0, 0)
