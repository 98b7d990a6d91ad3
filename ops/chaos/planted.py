"""Plants bugs in a copy of the sources, one after the other, and sees who notices: `python -m ops.chaos.planted`.

A suite that finds nothing in a broken system says nothing of a sound one. The last line is JSON; the exit code is 0
where every bug was caught by what should catch it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from ops.chaos.bugs import BUGS, Bug, Judge, Simulation
from ops.chaos.report import say

ROOT: Final = Path(__file__).parents[2]
_PARTS: Final = ("schemas", "streams", "processors", "client", "cli", "ops", "tests", "pyproject.toml")
_TIMEOUT_S: Final = 600


class UnfitError(Exception):
    """A bug does not fit the source any more; the message says which, and what is missing."""


def changes(bug: Bug, tree: Path) -> dict[Path, str]:
    """The files of `tree` that the bug changes, with it in them. Raises UnfitError."""
    sources = {file: file.read_text() for file in sorted((tree / bug.package).glob("*.py"))}
    changed: dict[Path, str] = {}
    for old, new in bug.edits:
        found = [file for file, source in sources.items() for _ in range(source.count(old))]
        if len(found) != 1:
            raise UnfitError(f"{bug.name!r}: {old!r} stands {len(found)} times in {bug.package}")
        sources[found[0]] = changed[found[0]] = sources[found[0]].replace(old, new)
    for file, source in changed.items():
        compile(source, str(file), "exec")
    return changed


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the sources, as they are now."""
    with tempfile.TemporaryDirectory(prefix="omium-planted-") as folder:
        tree = Path(folder)
        for part in _PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / part, tree / part)
        if (ROOT / ".cache").exists():
            (tree / ".cache").symlink_to(ROOT / ".cache")
        yield tree


@contextmanager
def planted(bug: Bug, tree: Path) -> Iterator[None]:
    """The bug is in `tree` meanwhile."""
    sources = {file: (file.read_text(), source) for file, source in changes(bug, tree).items()}
    for file, (_, source) in sources.items():
        file.write_text(source)
    try:
        yield
    finally:
        for file, (source, _) in sources.items():
            file.write_text(source)


def caught_by(bug: Bug, tree: Path) -> str | None:
    """What notices the bug that is in `tree`; None: what should have does not."""
    done = subprocess.run(
        _command(bug, tree),
        cwd=tree,
        # Nothing compiled: a source that changes twice within a second would be taken for the older one.
        env={**os.environ, "PYTHONPATH": f"{tree}:{tree / 'client'}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    match bug.caught_by:
        case Simulation():
            broken = json.loads(done.stdout.splitlines()[-1])["broken"] if done.stdout else None
            return f"simulation: {broken}" if broken else None
        case Judge(breaks=breaks):
            lines = done.stdout.splitlines()
            broken = json.loads(lines[-1])["broken"] if lines else []
            if breaks not in broken:
                say(done.stderr[-3000:])
            return f"judge: {breaks}" if breaks in broken else None
        case tests:
            # 1: tests ran and failed; anything else is an error of ours.
            if done.returncode != 1:
                say(done.stdout[-3000:])
            return f"tests: {tests.select}" if done.returncode == 1 else None


def _command(bug: Bug, tree: Path) -> list[str]:
    match bug.caught_by:
        case Simulation(seeds=seeds):
            return [sys.executable, "-m", "ops.chaos.simulate", "--processes", "0", "--seeds", str(seeds)]
        case Judge() as judge:
            # With the bug in it the system may never heal.
            run = {"nodes": 1, "seed": 1, "failures": judge.failures, "rate": judge.rate, "heal-s": 6}
            run["settle-s"] = judge.settle_s
            flags = [part for name, value in run.items() for part in (f"--{name}", str(value))]
            command = [sys.executable, "-m", "ops.chaos", *flags, "--prompt", "--only", judge.faults]
            return [*command, "--folder", str(tree / "run")]
        case tests:
            return [sys.executable, "-m", "pytest", "-x", "-q", "--timeout", "240", *tests.select.split()]


def quick() -> list[Bug]:
    """Those that the simulation or tests catch."""
    return [bug for bug in BUGS if not isinstance(bug.caught_by, Judge)]


def plant(bugs: Iterable[Bug]) -> dict[str, str | None]:
    """Each bug's name and what caught it, or None. Raises UnfitError."""
    return dict(_plant(bugs))


def control(bugs: Iterable[Bug]) -> dict[str, str | None]:
    """The same without any bug, each of what catches them once: whoever accuses a sound system notices nothing."""
    return dict(_plant({bug.caught_by: bug for bug in bugs}.values(), sound=True))


def _plant(bugs: Iterable[Bug], *, sound: bool = False) -> Iterator[tuple[str, str | None]]:
    with copied() as tree:
        for bug in bugs:
            begun_s = time.monotonic()
            with nullcontext() if sound else planted(bug, tree):
                by = caught_by(bug, tree)
            shutil.rmtree(tree / "run", ignore_errors=True)
            say(f"{time.monotonic() - begun_s:6.1f} s  {bug.name}: {by or ('sound' if sound else 'ESCAPED')}")
            yield bug.name, by


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.chaos.planted")
    parser.add_argument("--fast", action="store_true", help="without those that only a run on a broker catches")
    parser.add_argument("--only", default="", help="bugs whose name has this in it")
    parser.add_argument("--skip", type=int, default=0, help="so many of them")
    parser.add_argument("--control", action="store_true", help="plant nothing: nobody may notice anything")
    args = parser.parse_args()
    chosen = [bug for bug in (quick() if args.fast else BUGS) if args.only in bug.name]
    if args.control:
        accused = [name for name, by in control(chosen[args.skip :]).items() if by]
        print(json.dumps({"accused": accused}))
        return 1 if accused else 0
    found = plant(chosen[args.skip :])
    caught = {name: by for name, by in found.items() if by}
    kinds = Counter(by.partition(":")[0] for by in caught.values())
    print(json.dumps({"planted": len(found), "planted_caught": len(caught), "by": kinds, "caught": found}))
    return 0 if len(caught) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
