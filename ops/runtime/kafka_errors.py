"""librdkafka's errors as log lines, few enough to be read."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from confluent_kafka import KafkaError

_log: Final = logging.getLogger("kafka.client")
_EVERY_S: Final = 10.0
_LIBRDKAFKA_CRITICAL: Final = 2
_last: dict[int, float] = {}
_lock: Final = threading.Lock()


def _tell(error: KafkaError) -> None:
    """One line for each kind of error in ten seconds, whatever the number of clients."""
    now = time.monotonic()
    with _lock:
        if now - _last.get(error.code(), -_EVERY_S) < _EVERY_S:
            return
        _last[error.code()] = now
    _log.log(logging.ERROR if error.fatal() else logging.WARNING, "%s: %s", error.name(), error.str())


CLIENT_CONFIG: Final[dict[str, object]] = {
    # A client whose broker is gone otherwise writes twenty lines a second to stderr, past our logging.
    "log_level": _LIBRDKAFKA_CRITICAL,
    "error_cb": _tell,
}
"""For every librdkafka client: its errors go through `logging`, from the thread that polls it."""
