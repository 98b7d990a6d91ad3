"""The whole loop as a user starts it: `omium-recovery demo`, undisturbed and with its workers killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.demo.work import WORKS

pytestmark = pytest.mark.integration
ENDS_S = 150.0
RECOVERABLE = [name for name, work in WORKS.items() if work.ends == "recovered"]


class Demo:
    """A demo as a subprocess, and what it has said so far."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.demo", "--folder", str(folder), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # As a shell's background job, which hands on that it ignores SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
            )

    def said(self) -> str:
        return self.output.read_text()

    def ended_runs(self) -> int:
        return len(re.findall(r"^\[ *[\d.]+ s\] \S+-\d+: ", self.said(), re.MULTILINE))

    def wait_for(self, runs: int) -> None:
        """Until so many runs have ended."""
        deadline = time.monotonic() + ENDS_S
        while self.ended_runs() < runs:
            assert self.process.poll() is None, f"it ended too soon:\n{self.said()}"
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def children(self) -> dict[int, str]:
        """Its direct children: process id to command line."""
        found = {}
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in map(int, task.read_text().split()):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def kill_worker(self, name: str) -> None:
        [pid] = [pid for pid, command in self.children().items() if f"worker {name}" in command]
        os.kill(pid, signal.SIGKILL)

    def end(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(ENDS_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "demo"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """An undisturbed demo, after its end."""
    demo = Demo(tmp_path_factory.mktemp("whole") / "demo", "--rounds", "1")
    try:
        demo.end()
        yield demo
    finally:
        demo.kill()


def cli(demo: Demo, *arguments: str) -> str:
    """What a command says of what the demo left behind."""
    clickhouse = f"chdb://{demo.folder}/clickhouse"
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments, "--clickhouse", clickhouse],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_agent_that_can_recover_does(finished: Demo) -> None:
    said = finished.said()
    assert finished.process.returncode == 0, said
    assert finished.ended_runs() == len(WORKS)
    assert "NOT as it should" not in said
    assert re.search(r"escalated 1 ", said)


def test_nothing_of_it_outlives_it(finished: Demo) -> None:
    left = subprocess.run(["pgrep", "-f", str(finished.folder)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def rows(demo: Demo, query: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli(demo, "sql", query, "--json").splitlines()]


def test_the_audit_has_every_recovery(finished: Demo) -> None:
    """It ends only when what happened is in ClickHouse."""
    recovered = rows(finished, "SELECT execution_id FROM v_recoveries WHERE status = 'success'")
    assert sorted(row["execution_id"] for row in recovered) == sorted(f"{name}-1" for name in RECOVERABLE)
    assert len(rows(finished, "SELECT execution_id FROM v_recoveries")) == len(WORKS)
    assert rows(finished, "SELECT execution_id FROM recovery_attempts WHERE failure_type = ''") == []


def test_explain_says_what_failed_what_was_done_and_how_it_ended(finished: Demo) -> None:
    said = " ".join(cli(finished, "explain", "loan-stubborn-1").split())
    for words in ("apr", "range_violation", "constraint_injection", "validation_tool", "must be between 2.5 and 8.5"):
        assert words in said
    assert said.index("failed again") < said.index("succeeded") < said.index('{"apr":6.9}')


def test_workers_killed_in_the_middle_cost_no_recovery(folder: Path) -> None:
    demo = Demo(folder, "--rounds", "2")
    try:
        for n, worker in enumerate(("streams", "recover", "audit"), 1):
            demo.wait_for(n * len(WORKS) // 3)
            demo.kill_worker(worker)
        assert demo.end() == 0, demo.said()
        assert "3 workers restarted" in demo.said()
        assert len(rows(demo, "SELECT execution_id FROM v_recoveries WHERE status = 'success'")) == 2 * len(RECOVERABLE)
    finally:
        demo.kill()


def test_without_java_it_runs_on_the_in_process_broker_and_says_so(folder: Path) -> None:
    demo = Demo(folder, "--rounds", "1", "--in-memory")
    try:
        assert demo.end() == 0, demo.said()
        assert "Nothing is guaranteed here and nothing is kept." in demo.said()
        assert not (folder / "kafka").exists()
    finally:
        demo.kill()


def test_it_ends_in_order_when_it_is_interrupted(folder: Path) -> None:
    demo = Demo(folder, "--rounds", "4")
    try:
        demo.wait_for(1)
        children = demo.children()
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 130
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    finally:
        demo.kill()


def test_nothing_survives_when_it_is_killed(folder: Path) -> None:
    demo = Demo(folder)
    try:
        demo.wait_for(1)
        children = demo.children()
        assert len(children) > 5
        demo.kill()
        deadline = time.monotonic() + 10
        while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, [children[pid] for pid in left]
            time.sleep(0.05)
    finally:
        demo.kill()
