"""Logs: one line an event on stderr, so that stdout stays data."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

from ops.runtime.settings import Settings

_NOISY: Final = ("faust", "mode", "aiokafka", "asyncio", "urllib3")
"""They tell their life at INFO; shown at DEBUG only."""
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {9: "\t", 10: "\\n", 13: "\\r"}


class _OneLine(logging.Formatter):
    """A traceback, or a message that quotes an agent, can hold line ends: an agent must not forge log lines."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_CONTROL)


def configure(settings: Settings) -> None:
    """Send this process's logs to stderr at `settings.log_level`; safe to call twice."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in _NOISY:
        logging.getLogger(name).setLevel("DEBUG" if settings.log_level == "DEBUG" else "WARNING")
