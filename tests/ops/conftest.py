"""promtool, the judge of rules and metrics."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

Promtool = Callable[..., str]


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Run promtool with these arguments; fails the test where it exits with an error."""
    path = shutil.which("promtool")
    if path is None:
        # On a developer's machine it may be missing; where everything is checked it may not.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("promtool (Debian: prometheus) is not installed")

    def run(*args: str, stdin: str | None = None) -> str:
        done = subprocess.run([str(path), *args], input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
