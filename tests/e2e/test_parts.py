"""Parts of the demo whose faults the whole would hide."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.demo.board import percentile
from cli.demo.stack import Stack, StackError
from cli.processes import Keeper

FOREVER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def pid_of(keeper: Keeper, name: str, other_than: int | None = None) -> int:
    deadline = time.monotonic() + 20
    while (pid := keeper.children[name].pid) in (None, other_than):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert pid is not None
    return pid


def test_a_killed_child_is_started_again_and_its_log_is_kept(keeper: Keeper, tmp_path: Path) -> None:
    keeper.start("worker", FOREVER, tmp_path / "worker.log", {})
    first = pid_of(keeper, "worker")
    os.kill(first, signal.SIGKILL)
    second = pid_of(keeper, "worker", other_than=first)
    assert second != first
    assert keeper.restarts == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker.1.log", "worker.log"]


def test_a_child_that_does_not_come_up_is_started_less_and_less_eagerly(keeper: Keeper, tmp_path: Path) -> None:
    keeper.start("broken", [sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "broken.log", {})
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        time.sleep(0.05)
    # Eagerly it would be 30 times and more.
    assert keeper.restarts <= 3


def test_deaths_are_told_and_a_child_that_was_called_wrongly_is_left_alone(tmp_path: Path) -> None:
    told: list[str] = []
    keeper = Keeper(told.append)
    try:
        keeper.start("wrong", [sys.executable, "-c", "raise SystemExit(2)"], tmp_path / "wrong.log", {})
        keeper.start("worker", FOREVER, tmp_path / "worker.log", {})
        os.kill(pid_of(keeper, "worker"), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while keeper.gave_up is None or keeper.restarts < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        keeper.close()
    assert keeper.children["wrong"].restarts == 0
    assert sorted(line.partition(";")[0].removesuffix(" in 0.5 s") for line in told) == [
        "worker was ended by signal 9, starts again",
        "wrong ended with exit code 2 and is not started again",
    ]


def test_closing_leaves_nothing_running(tmp_path: Path) -> None:
    keeper = Keeper()
    keeper.start("worker", FOREVER, tmp_path / "worker.log", {})
    pid = pid_of(keeper, "worker")
    keeper.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_folder_has_one_stack_and_a_strangers_folder_none(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "mine")
    try:
        with pytest.raises(StackError, match="another stack runs"):
            Stack(tmp_path / "mine", fresh=True)
    finally:
        stack.stop()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    with pytest.raises(StackError, match="holds something else"):
        Stack(tmp_path / "theirs", fresh=True)
    assert (tmp_path / "theirs" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([7], 0.99, 7), ([3, 1, 2], 0.5, 2), (list(range(1, 101)), 0.99, 99), ([1, 2], 1.0, 2)],
)
def test_percentiles_are_nearest_ranks(values: list[int], share: float, expected: int | None) -> None:
    assert percentile(values, share) == expected
