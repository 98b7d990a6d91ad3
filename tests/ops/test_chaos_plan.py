"""What strikes is drawn such that no kind of fault is left out of a long run, and a seed draws the same again."""

from __future__ import annotations

import argparse
import random
from itertools import chain, islice

import pytest

from ops.chaos.__main__ import plan
from ops.chaos.nemesis import FAULTS


def _drawn(seed: int, nodes: int, count: int) -> list[str]:
    rounds = plan(random.Random(seed), argparse.Namespace(only="", nodes=nodes))
    return [fault.name for fault, _ in islice(chain.from_iterable(rounds), count)]


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_long_run_has_every_kind_of_fault(nodes: int) -> None:
    kinds = {name for name, fault in FAULTS.items() if fault.nodes <= nodes}
    for seed in range(50):
        assert set(_drawn(seed, nodes, 204)) == kinds


def test_a_seed_draws_the_same_again() -> None:
    assert _drawn(7, 3, 100) == _drawn(7, 3, 100) != _drawn(8, 3, 100)


def test_chosen_faults_come_in_their_order() -> None:
    args = argparse.Namespace(only="kill_agents,failpoint:recover.produced@3", nodes=1)
    assert [[(fault.name, arg) for fault, arg in each] for each in plan(random.Random(1), args)] == [
        [("kill_agents", "")],
        [("failpoint", "recover.produced@3")],
    ]
