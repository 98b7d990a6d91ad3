"""Runs an app until a signal or a crash, without Faust's own command line."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

from streams.edge.app import App

log = logging.getLogger(__name__)

STOP_S: Final = 30.0
"""An orderly stop takes at most this long; after it the process ends, and loses nothing by that. Less than what Docker
and Kubernetes are told to wait before they kill."""


def run(build: Callable[[], Awaitable[App]]) -> int:
    """Build the app on its loop and run it. 0 after SIGTERM or SIGINT, 1 where it crashed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(build))


async def _run(build: Callable[[], Awaitable[App]]) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
    app = await build()
    starting = asyncio.create_task(app.start())
    crashed = asyncio.create_task(app._crashed.wait())
    signalled = asyncio.create_task(ended.wait())
    await asyncio.wait({crashed, signalled, starting}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and starting.exception() is None:
        await asyncio.wait({crashed, signalled}, return_when=asyncio.FIRST_COMPLETED)
    reason = app.crash_reason or (starting.exception() if starting.done() else None)
    if reason is not None:
        log.critical("the worker stops: %s: %s", type(reason).__name__, reason)
    stopping = asyncio.create_task(app.stop())
    await asyncio.wait({stopping}, timeout=STOP_S)
    if not stopping.done():
        # Cancelling does not help: parts of Faust pass over it and wait on, also at the end of the loop.
        log.error("did not stop within %g s: the process ends", STOP_S)
        logging.shutdown()
        os._exit(0 if reason is None else 1)
    for task in (starting, crashed, signalled):
        task.cancel()
    app.outputs.close()
    await stopping
    return 1 if reason is not None else 0
