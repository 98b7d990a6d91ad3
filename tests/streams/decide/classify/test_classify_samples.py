"""The built-in rules on every sample of real errors: one overall bar, and no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.bench.classify import read, score
from streams.decide.classify import load_rules

DATA = Path(__file__).parents[3] / "data"
SAMPLES = ("error_shapes", "errors_executed", "errors_reported", "errors_collected")
MIN_ANSWERED = 0.98
MIN_RIGHT_OF_ANSWERED = 0.98


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_of_real_errors(sample: str) -> None:
    rows = read(DATA / f"{sample}.jsonl")
    result = score(rows, load_rules())
    figures = result.figures()
    wrong = [f"{row.expected} <- {verdict.subtype} by {verdict.rule}: {row.given}" for row, verdict in result.wrong]
    assert len(rows) > 100
    assert figures["answered"] >= MIN_ANSWERED, wrong
    assert figures["right_of_answered"] >= MIN_RIGHT_OF_ANSWERED, wrong
    assert figures["transient_called_permanent"] == 0, wrong
    assert figures["permanent_called_transient"] == 0, wrong


def test_every_collected_row_says_where_it_was_seen() -> None:
    lines = (DATA / "errors_collected.jsonl").read_text().splitlines()
    assert all('"source": "' in line and '"source": ""' not in line for line in lines)
    assert len(set(lines)) == len(lines)
