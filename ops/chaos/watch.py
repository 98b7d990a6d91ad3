"""What the system still owes, followed while it runs: words without an answer, recoveries without an end."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Final, Self

from confluent_kafka import KafkaException

from ops.chaos.wire import follower, read

FAILURES: Final = "agent.failures.v1"
OUTCOMES: Final = "agent.outcomes.v1"
DISPOSITIONS: Final = "recovery.dispositions.v1"
RESULTS: Final = "recovery.results.v1"
DEAD_LETTERS: Final = "recovery.dead-letters.v1"
_TOPIC_OF: Final = {"failure": FAILURES, "outcome": OUTCOMES}
LATE_S: Final = 2.0
"""The promise; this reader is not further behind than that, while the brokers answer."""
_WINDOW_S: Final = 60.0
Place = tuple[str, int, int]


class Watch:
    """Follows five topics in a thread of its own, from `start` to `close`."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer, _ = follower(bootstrap, FAILURES, OUTCOMES, DISPOSITIONS, RESULTS, DEAD_LETTERS)
        self._owed: dict[Place, float] = {}
        """Failures and outcomes of which nobody has said what became of them, and when they were appended."""
        self._early: set[Place] = set()
        """Answers that this reader saw before what they answer."""
        self._appended_s: deque[float] = deque()
        self._open: set[str] = set()
        self._ended: set[str] = set()
        self._executions: set[str] = set()
        self.dispositions = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._consumer.close()

    @property
    def executions(self) -> int:
        """How many of them have failed so far."""
        return len(self._executions)

    @property
    def owed(self) -> tuple[int, int]:
        """(failures and outcomes without an answer, recoveries that have not ended)."""
        with self._lock:
            return len(self._owed), len(self._open)

    def healthy(self) -> bool:
        """The backlog is gone: of the last minute's failures no more than one in a hundred waits too long."""
        now_s = time.time()
        with self._lock:
            while self._appended_s and now_s - self._appended_s[0] > _WINDOW_S:
                self._appended_s.popleft()
            late = sum(now_s - at_s > LATE_S for (topic, _, _), at_s in self._owed.items() if topic == FAILURES)
            return late <= max(3, len(self._appended_s) // 100)

    def _run(self) -> None:
        while not self._stopped.is_set():
            for message in self._consumer.consume(1000, 0.1):
                error = message.error()
                if error is not None and error.fatal():
                    raise KafkaException(error)
                value = read(message.value()) if error is None else None
                if value is not None:
                    place = (message.topic() or "", message.partition() or 0, message.offset() or 0)
                    with self._lock:
                        self._take(place, message.timestamp()[1] / 1000, value)

    def _take(self, place: Place, at_s: float, value: dict[str, Any]) -> None:
        topic = place[0]
        if topic in (FAILURES, OUTCOMES):
            if topic == FAILURES:
                self._executions.add(str(value.get("execution_id")))
                self._appended_s.append(at_s)
            if place in self._early:
                self._early.discard(place)
            else:
                self._owed[place] = at_s
        elif topic == RESULTS:
            self._ended.add(value["recovery_id"])
            self._open.discard(value["recovery_id"])
        elif topic == DEAD_LETTERS:
            self._answer(value["origin_topic"], value)
        elif topic == DISPOSITIONS:
            self.dispositions += 1
            # A failure that is commanded at once is not said to be opened before.
            if value["kind"] in ("opened", "commanded") and value["recovery_id"] not in self._ended:
                self._open.add(value["recovery_id"])
            if value["kind"] != "opened" and value["subject"] in _TOPIC_OF:
                # Of what was passed on, the copy is owed an answer from now on.
                self._answer(_TOPIC_OF[value["subject"]], value)

    def _answer(self, topic: str, said: dict[str, Any]) -> None:
        place = (topic, said["origin_partition"], said["origin_offset"])
        if self._owed.pop(place, None) is None:
            self._early.add(place)
