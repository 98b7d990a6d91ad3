"""What README says can be done by its words alone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_path_it_names_exists() -> None:
    named = set(re.findall(r"`((?:schemas|streams|processors|client|cli|ops|tests)/[\w./-]*)`", README))
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make ([a-z][a-z-]+)", README)) <= targets
