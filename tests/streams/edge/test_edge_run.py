"""A worker ends when it is told to, whatever hangs."""

from __future__ import annotations

import signal
import subprocess
import sys

STUBBORN = """
import asyncio
from ops.runtime.settings import Settings
from streams.edge import run
from streams.edge.app import App, new_app
from streams.edge.outputs import Outputs

async def never() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            "As mode's services do while they stop their children."

async def build() -> App:
    app = new_app(Settings(bootstrap="127.0.0.1:1"), "stubborn")
    app.outputs = Outputs(Settings(), app.fail)
    app.on_stop = never
    asyncio.get_running_loop().call_later(0.1, lambda: print("runs", flush=True))
    return app

run.STOP_S = 0.5
raise SystemExit(run.run(build))
"""


def test_a_stop_that_hangs_and_cannot_be_cancelled_ends_the_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
    # 0, or 1 where it had not waited for its broker any longer before the signal came.
    assert process.returncode in (0, 1)
    assert "did not stop within 0.5 s" in log
