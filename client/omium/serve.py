"""Following commands that come later, or that answer the failures of other processes."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Message

from omium import codec
from omium.acceptor import MemoryFences
from omium.pending import UndecidedError
from omium.records import Command, Evidence, Outcome
from omium.run import IN_PLACE, attempt
from omium.step import NotAppliedError, Violation, reported

if TYPE_CHECKING:
    from omium.client import Omium

Handler = Callable[[Command], Outcome | None]
"""Resumes `command.execution_id` from `command.checkpoint` with `command.modifications` (`omium.current()`
inside), and says how it ended (None: succeeded). A run that fails again raises: that is reported as a
failure of this attempt. While it runs, `omium.current_run()` is the execution's."""
_log = logging.getLogger("omium")
_POLL_S: Final = 0.1
_RETRY_S: Final = 1.0
# Commands that were accepted and wait for their `not_before`, or that wait for the fences.
_MOST_HELD: Final = 256
_CHECK_S: Final = 5.0


class Service:
    """A consumer of this agent's commands, in a group: each command goes to one process of the group.

    A command is accepted (compare-and-set in the client's `fences`), then its offset is stored, then it
    is followed: a process that dies in between has lost this attempt, not doubled it, and the next
    attempt is commanded at the outcome's deadline. Give the client `SqliteFences`, or a store that all
    its processes share, those too that wait in place with checkpoints of their own: with the default, in
    memory, a command may be followed by two of them, and again after a restart. A command for which a step
    of this process waits is left to that step; so is one whose checkpoint is a step's own beginning.
    """

    def __init__(
        self,
        client: Omium,
        handler: Handler,
        *,
        group: str | None = None,
        workers: int = 4,
        agent_id: str | None = None,
    ) -> None:
        """Start following.

        `agent_id`: whose commands; the client's own agent by default, and where that has no id, those for
        agents without one. `group`: the consumer group, by default one per tenant and agent. `workers`:
        handlers that run at once, each in a thread.
        """
        self._client = client
        self._handler = handler
        self._agent_id = agent_id or client.agent.id
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="omium-serve")
        self._held: list[tuple[float, int, Command, bool]] = []
        """(when to look at it, its turn, the command, whether it was accepted)"""
        self._checked_at = float("-inf")
        self._order = itertools.count()
        self._running = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.assigned = threading.Event()
        """Set once partitions are assigned: commands are being received."""
        if isinstance(client.acceptor.store, MemoryFences):
            _log.warning("omium: serve with fences in memory: a restart may follow a command twice")
        self._config = client.consumer_config | {
            "group.id": group or f"omium-serve-{client.tenant_id}-{self._agent_id or 'any'}",
            # What was commanded before the group existed is still to be followed, if it has not expired.
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
            "auto.commit.interval.ms": 1000,
            "enable.auto.offset.store": False,
            # Commands expire: the partitions of a dead process must move soon.
            "session.timeout.ms": 10_000,
        }
        self._thread = threading.Thread(target=self._run, name="omium-serve", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> bool:
        """Block until closed by another thread or a signal's handler; False where the time ran out."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self, timeout_s: float = 10.0) -> None:
        """Accept no more; wait for the handlers that run, at most `timeout_s`."""
        self._closing.set()
        self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- receiving ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                consumer = Consumer(self._config)
            except Exception:
                _log.exception("omium: no consumer; commands cannot be followed")
                return
            try:
                consumer.subscribe([codec.COMMANDS], on_assign=lambda *_: self.assigned.set())
                self._follow(consumer)
            except Exception:
                _log.exception("omium: serve: starting again")
                self._closing.wait(_RETRY_S)
            finally:
                consumer.close()
        self._abandon_held()
        self._pool.shutdown(wait=True)

    def _follow(self, consumer: Consumer) -> None:
        paused = False
        while not self._closing.is_set():
            self._begin_due()
            full = self._running >= self._workers or len(self._held) >= _MOST_HELD
            if full:
                # Also what was assigned since; polling goes on, else the group would take us for dead.
                consumer.pause(consumer.assignment())
            elif paused:
                consumer.resume(consumer.assignment())
            paused = full
            message = consumer.poll(_POLL_S if not self._held and not full else 0.02)
            if message is None:
                continue
            if message.error() is not None:
                _log.debug("omium: serve: %s", message.error())
                continue
            self._take(message)
            consumer.store_offsets(message)

    def _take(self, message: Message) -> None:
        kind, appended_ms = message.timestamp()
        if kind == TIMESTAMP_LOG_APPEND_TIME:
            self._client.clock.received(appended_ms)
        if not (message.key() or b"").startswith(self._client.tenant_id.encode() + b"/"):
            return
        try:
            command = codec.decode_command(message.value(), message.headers())
        except codec.UndecodableError as error:
            _log.warning("omium: a command at %d/%d: %s", message.partition(), message.offset(), error)
            return
        if command.tenant_id != self._client.tenant_id or command.key.encode() != message.key():
            return
        if command.agent_id != self._agent_id:
            return
        if command.checkpoint.id.startswith(IN_PLACE) or self._client.pending.awaited(command.key):
            return
        self._accept(command)
        self._begin_due()

    def _accept(self, command: Command) -> None:
        try:
            if self._check_clock(command):
                return
            hold_s = self._client.pending.accept(command)
        except UndecidedError:
            self._hold(_RETRY_S, command, accepted=False)
            return
        if hold_s is not None:
            self._hold(hold_s, command, accepted=True)

    def _hold(self, hold_s: float, command: Command, *, accepted: bool) -> None:
        heapq.heappush(self._held, (time.monotonic() + hold_s, next(self._order), command, accepted))

    def _check_clock(self, command: Command) -> bool:
        """A process that only serves has nothing acknowledged, and with a clock that is ahead would find every command
        expired. So the first one that looks so is answered as not applied: the answer's acknowledgement tells the time.
        """
        clock = self._client.clock
        if clock.checked or clock.now() < command.expires_at or time.monotonic() < self._checked_at + _CHECK_S:
            return False
        if not self._client.pending.claim_expired(command):
            return False
        self._checked_at = time.monotonic()
        self._client.run(command.execution_id).not_applied(command, "expired, by the runtime's clock")
        return True

    def _begin_due(self) -> None:
        while self._held and self._running < self._workers and self._held[0][0] <= time.monotonic():
            _, _, command, accepted = heapq.heappop(self._held)
            if not accepted:
                self._accept(command)
                continue
            with self._lock:
                self._running += 1
            self._pool.submit(self._handle, command)

    def _abandon_held(self) -> None:
        for _, _, command, accepted in self._held:
            if accepted:
                self._client.run(command.execution_id).not_applied(command, "the runtime stopped before it was due")
        self._held.clear()

    # -- following ----------------------------------------------------------------------------------

    def _handle(self, command: Command) -> None:
        run = self._client.run(command.execution_id)
        try:
            if self._client.clock.now() >= command.expires_at:
                run.not_applied(command, "expired while it waited for a worker")
                return
            command.begin(self._client.clock.now())
            evidence = Evidence(checkpoint=command.checkpoint)
            try:
                with attempt(run, command, command.modifications) as notes:
                    outcome: Any = self._handler(command)
            except NotAppliedError as error:
                outcome = Outcome.not_applied(str(error))
            except BaseException as error:
                if not reported(error, run):
                    evidence.update(notes)
                    evidence.update(error.evidence if isinstance(error, Violation) else {})
                    run.failed_again(command, error, **evidence)
                return
            if not isinstance(outcome, Outcome | None):
                _log.error("omium: a handler returns an Outcome or None, not %s", type(outcome).__name__)
                outcome = None
            run.tell(command, outcome or Outcome.succeeded())
        finally:
            with self._lock:
                self._running -= 1
