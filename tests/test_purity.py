"""What decides is pure. import-linter sees what it imports; this sees what it calls."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
(PURE,) = (contract["source_modules"] for contract in _CONTRACTS if contract["name"].startswith("what decides is pure"))
_CLOCKS = {"now", "utcnow", "today", "monotonic", "perf_counter"}
_EFFECTS = {"open", "input", "print", "exec", "eval", "breakpoint", "__import__"}


def _files() -> list[Path]:
    found: list[Path] = []
    for module in PURE:
        path = ROOT / module.replace(".", "/")
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return found


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_pure_part_reads_no_clock_and_has_no_effect(path: Path) -> None:
    """datetime.now() needs no import that a contract could forbid: times are arguments."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Global | ast.Nonlocal | ast.Await), ast.unparse(node)
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Attribute) and called.attr in _CLOCKS), ast.unparse(node)
            assert not (isinstance(called, ast.Name) and called.id in _EFFECTS), ast.unparse(node)


def test_the_contract_names_what_exists() -> None:
    assert all(path.exists() for path in _files())


_ADMIN_OFFSETS = {"list_consumer_group_offsets", "alter_consumer_group_offsets"}


@pytest.mark.parametrize("package", ["streams", "processors", "cli", "ops"])
def test_no_admin_client_asks_for_the_offsets_of_a_group(package: str) -> None:
    """Where the coordinator has just moved, librdkafka 2.x then looks for the group of a handle that has none, and the
    process dies of SIGSEGV: both workers did, three brokers with one killed. A consumer that never joins can ask."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in _ADMIN_OFFSETS), path
