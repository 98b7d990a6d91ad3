"""What is installed is ours, whole, and pinned where it must be."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "streams", "processors", "cli", "ops")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
_LOCKED = re.compile(r"^[a-z0-9._-]+(\[[a-z0-9,-]+\])?==[\w.+!]+( ;.+?)?( +--hash=sha256:[0-9a-f]{64})+ *$")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_flat_name_is_our_folder(name: str) -> None:
    """A stranger's wheel with the same name would take its place without a word."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin == str(ROOT / name / "__init__.py")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_folder_with_code_is_a_package(name: str) -> None:
    """Without `__init__.py` a regular package of that name, anywhere on the path, wins over the folder."""
    folders = {path.parent for path in (ROOT / name).rglob("*.py")}
    parents = {above for folder in folders for above in folder.parents if above.is_relative_to(ROOT / name)}
    assert [folder for folder in sorted(folders | parents) if not (folder / "__init__.py").exists()] == []


def test_nothing_of_ours_can_be_uploaded_by_accident() -> None:
    assert "Private :: Do Not Upload" in metadata("omium-recovery").get_all("Classifier", [])


def test_all_packages_are_in_the_wheel() -> None:
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)


def test_the_library_whose_inside_we_subclass_is_pinned_exactly() -> None:
    assert any(re.fullmatch(r"faust-streaming==[\d.]+", each) for each in PROJECT["project"]["dependencies"])


def _locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
def test_a_lock_is_versions_and_hashes_only(name: str) -> None:
    """An address in a lock is a mirror of somebody's, and outlives it."""
    entries = re.sub(r"\\\n", " ", (ROOT / "requirements" / name).read_text())
    for line in entries.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            assert re.match(
                r"^[a-z0-9._-]+(\[[a-z0-9,-]+\])?==[\w.+!]+( ;.+?)?( +--hash=sha256:[0-9a-f]{64})+ *$", line
            )


def test_the_image_runs_what_was_tested() -> None:
    tested, shipped = _locked("dev.txt"), _locked("runtime.txt")
    assert shipped
    assert shipped.items() <= tested.items()


def test_each_dependency_is_in_the_lock() -> None:
    """pyproject.toml changed and `make lock` was forgotten."""
    project = PROJECT["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["embedded"],
        *PROJECT["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", each)[0].lower() for each in asked}
    assert names <= _locked("dev.txt").keys()


def test_the_client_does_not_know_our_flat_names() -> None:
    """People install it next to packages of their own that are called `schemas`."""
    for path in (ROOT / "client" / "omium").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.partition(".")[0] for name in names} & set(PACKAGES), path


def test_help_imports_no_client_library() -> None:
    """`--help` and completion answer before anyone wonders whether they hang."""
    code = (
        "import sys, contextlib, io\nfrom cli.main import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): app(['--help'])\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}"
        " & {'faust', 'confluent_kafka', 'clickhouse_connect', 'chdb', 'pydantic_settings', 'fastavro'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_file_is_long() -> None:
    """Above 400 lines a file is two files."""
    found = [p for name in PACKAGES for p in (ROOT / name).rglob("*.py") if len(p.read_text().splitlines()) > 400]
    assert found == []
