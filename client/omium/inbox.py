"""The way in, for agents that wait in place: every new command is read, those waited for are handed over.

No consumer group: it would take seconds to join, and its members would share the commands, while each
process wants those of its own executions. The end of every partition is taken before the first failure is
sent (the outbox waits for `ready`), so the answer to a failure is always after the place where reading begins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from omium import codec
from omium.clock import BrokerClock
from omium.records import Command

_log = logging.getLogger("omium")
_POLL_S: Final = 0.1
_PATIENCE_S: Final = 10.0
_KEPT: Final = 16
_QUIET_S: Final = 60.0


class Waiter:
    """The commands for one execution that came since this waiter was put up."""

    def __init__(self) -> None:
        self.active = 0
        """How many wait right now."""
        self.late: Callable[[Command], None] | None = None
        """Set once all waiting is given up for good: gets what still comes."""
        self._commands: deque[Command] = deque(maxlen=_KEPT)
        self._asked: deque[Future[Command]] = deque()
        self._lock = threading.Lock()

    def put(self, command: Command) -> bool:
        """Hand over a command. Returns whether somebody waits, or may yet."""
        with self._lock:
            if self.late is not None:
                return False
            if not self._answer(command):
                self._commands.append(command)
            return True

    def _answer(self, command: Command) -> bool:
        """Give `command` to whoever asked first and still waits."""
        while self._asked:
            asked = self._asked.popleft()
            if asked.set_running_or_notify_cancel():
                asked.set_result(command)
                return True
        return False

    def next(self) -> Future[Command]:
        """The next command, oldest first; each is given out once. A future no longer waited for is to be cancelled."""
        future: Future[Command] = Future()
        with self._lock:
            if self._commands:
                future.set_result(self._commands.popleft())
            else:
                self._asked = deque(asked for asked in self._asked if not asked.cancelled())
                self._asked.append(future)
        return future

    def withdraw(self, asked: Future[Command]) -> None:
        """Nobody waits for `asked` any more: a command that it got all the same is the next one again."""
        if not asked.cancel():
            self.put_back(asked.result())

    def put_back(self, command: Command) -> None:
        """A command that was given out and not looked at: it is the next one again."""
        with self._lock:
            if not self._answer(command):
                self._commands.appendleft(command)

    def nudge(self, command: Command) -> None:
        """Whoever waits right now is to look at `command`, which came before this waiter was put up."""
        with self._lock:
            self._answer(command)

    def retire(self, on_late: Callable[[Command], None]) -> list[Command]:
        """All waiting is given up for good: `on_late` gets what still comes. Returns what was never asked for."""
        with self._lock:
            self.late = on_late
            unasked = list(self._commands)
            self._commands.clear()
            return unasked


class Inbox:
    """Reads `recovery.commands.v1`, committed records only, from where it ended when this began."""

    def __init__(self, config: Mapping[str, Any], clock: BrokerClock, on_ready: Callable[[], None]) -> None:
        self._config = dict(config) | {"error_cb": self._on_error}
        self._clock = clock
        self._on_ready = on_ready
        self._waiters: dict[bytes, list[Waiter]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._consumer: Consumer | None = None
        self._give_up_at = time.monotonic() + _PATIENCE_S
        self.positioned = threading.Event()
        self.undecodable = 0
        self._down = False
        self._said_at = float("-inf")

    def start(self) -> None:
        """Start the thread that reads."""
        self._thread = threading.Thread(target=self._run, name="omium-inbox", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether failures may be sent: positioned, or so long in vain that waiting would only lose them."""
        return self.positioned.is_set() or time.monotonic() > self._give_up_at

    @property
    def unreachable(self) -> bool:
        """Whether there never was a connection, and none can be made: no command can come."""
        return self._down and not self.positioned.is_set()

    def _on_error(self, error: KafkaError) -> None:
        self._down = self._down or error.code() == KafkaError._ALL_BROKERS_DOWN
        if time.monotonic() >= self._said_at + _QUIET_S:
            self._said_at = time.monotonic()
            _log.warning("omium: the broker: %s", error.str())

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def expect(self, execution: str) -> Waiter:
        """Put up a waiter for the commands of `execution`. Do so before its failure is reported."""
        waiter = Waiter()
        with self._lock:
            self._waiters.setdefault(execution.encode(), []).append(waiter)
        return waiter

    def retire(self, execution: str, waiter: Waiter, on_late: Callable[[Command], None]) -> list[Command]:
        """Nobody waits with `waiter` any more. Returns what came too late for it and no other waiter has."""
        with self._lock:
            unasked = waiter.retire(on_late)
            others = any(each.late is None for each in self._waiters.get(execution.encode(), ()))
            return [] if others else unasked

    def forget(self, execution: str, waiter: Waiter) -> None:
        """Take the waiter down."""
        with self._lock:
            waiters = self._waiters.get(execution.encode(), [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(execution.encode(), None)

    def awaited(self, execution: str) -> bool:
        """Whether somebody in this process waits right now for commands of `execution`."""
        with self._lock:
            return any(waiter.active for waiter in self._waiters.get(execution.encode(), ()))

    def _run(self) -> None:
        try:
            consumer = self._consumer = Consumer(self._config)
        except Exception:
            _log.exception("omium: no consumer; commands cannot be received")
            self._give_up_at = 0.0
            self._on_ready()
            return
        try:
            if self._position(consumer):
                self._read(consumer)
        finally:
            consumer.close()
            self._consumer = None

    def _position(self, consumer: Consumer) -> bool:
        while not self._closing.is_set():
            try:
                found = consumer.list_topics(codec.COMMANDS, timeout=1.0).topics[codec.COMMANDS]
                if found.error is not None:
                    raise KafkaException(found.error)
                ends = []
                for partition in found.partitions:
                    at = TopicPartition(codec.COMMANDS, partition)
                    _, at.offset = consumer.get_watermark_offsets(at, timeout=1.0)
                    ends.append(at)
                consumer.assign(ends)
            except KafkaException as error:
                _log.debug("omium: not connected yet: %s", error)
                self._on_ready()
                # Serves the callback of errors, which says that nobody is there.
                consumer.poll(_POLL_S)
                continue
            self.positioned.set()
            self._on_ready()
            return True
        return False

    def _read(self, consumer: Consumer) -> None:
        while not self._closing.is_set():
            try:
                message = consumer.poll(_POLL_S)
            except Exception as problem:
                _log.warning("omium: reading commands: %s", problem)
                self._closing.wait(_POLL_S)
                continue
            if message is None:
                continue
            if (error := message.error()) is not None:
                _log.debug("omium: reading commands: %s", error)
            else:
                self._hand_over(message)

    def _hand_over(self, message: Message) -> None:
        kind, appended_ms = message.timestamp()
        if kind == TIMESTAMP_LOG_APPEND_TIME:
            self._clock.received(appended_ms)
        with self._lock:
            # Most commands are for other processes: the key tells without decoding.
            if (message.key() or b"") not in self._waiters:
                return
        try:
            command = codec.decode_command(message.value(), message.headers())
        except codec.UndecodableError as error:
            self.undecodable += 1
            _log.warning("omium: a command at %d/%d: %s", message.partition(), message.offset(), error)
            return
        if command.key.encode() != message.key():
            self.undecodable += 1
            return
        with self._lock:
            # To all of them or none: else the last to give up could not tell whether it is the last to have it.
            waiters = tuple(self._waiters.get(command.key.encode(), ()))
            living = [waiter for waiter in waiters if waiter.put(command)]
        if waiters and not living and (late := waiters[0].late) is not None:
            late(command)
