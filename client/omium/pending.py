"""The failures that this process waits with, and the attempts that answer them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from omium.acceptor import Acceptor, Refusal
from omium.clerk import Clerk
from omium.clock import BrokerClock
from omium.inbox import Inbox, Waiter
from omium.records import Command

EPOCH: Final = datetime.fromtimestamp(0, UTC)
_log = logging.getLogger("omium")
_EXECUTIONS: Final = 10_000
_FAILURES: Final = 64
_ATTEMPTS: Final = 16
# A parallel branch that fails so soon after its sibling's command gets none of its own from the orchestrator.
_BRANCH_GRACE_S: Final = 2.0

Taken = tuple[Command, float]
"""A command that is this caller's to follow, and the seconds until it may begin."""


class UndecidedError(Exception):
    """The fences cannot be read or written: whether a command may be followed is not known."""


@dataclass(slots=True)
class _Failure:
    waiter: Waiter
    reported_at: float
    enrolled: str = ""
    """The command that came while it waited and that a parallel branch accepted: it is to follow it too."""
    answered_by: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Attempt:
    command: Command
    began_at: float
    parts: int = 0
    """Failed branches that run again by it, or are about to, and have not ended."""
    told: bool = False
    """Its end has been told."""


@dataclass(slots=True)
class _Execution:
    failures: OrderedDict[str, _Failure] = field(default_factory=OrderedDict)
    attempts: OrderedDict[str, _Attempt] = field(default_factory=OrderedDict)
    """By command id, the newest last."""

    @property
    def attempt(self) -> _Attempt | None:
        return next(reversed(self.attempts.values()), None)

    def begin(self, command: Command, first: _Failure) -> _Attempt:
        """A new attempt for `first`; every failure that is waited for takes part in it."""
        attempt = self.attempts[command.command_id] = _Attempt(command, time.monotonic())
        if len(self.attempts) > _ATTEMPTS:
            self.attempts.popitem(last=False)
        for failure in self.failures.values():
            if failure.waiter.active:
                # Counted now: the first branch may be through before the others have looked.
                failure.enrolled = command.command_id
                attempt.parts += 1
                if failure is not first:
                    failure.waiter.nudge(command)
        return attempt


class Pending:
    """Bounded: of executions that fail and are never finished, the least recent are forgotten.

    Branches of one execution that fail in parallel get one command, its modifications merged. Here each
    of them runs again by it, sharing the command; it has succeeded when all have, and failed when one has.

    The fences may be on a slow disk: one thread reads and writes them, in order, and never under the lock.
    """

    def __init__(self, inbox: Inbox, acceptor: Acceptor, clock: BrokerClock, hold_s: float) -> None:
        self._inbox = inbox
        self._acceptor = acceptor
        self._clock = clock
        self._hold_s = hold_s
        self._executions: OrderedDict[str, _Execution] = OrderedDict()
        self._lock = threading.RLock()
        self._clerk = Clerk()
        self.refused = 0

    def expect(self, key: str, failure_id: str) -> Waiter:
        """Listen for the answer to a failure; call before it is reported."""
        with self._lock:
            execution = self._executions.setdefault(key, _Execution())
            self._executions.move_to_end(key)
            if failure_id not in execution.failures:
                execution.failures[failure_id] = _Failure(self._inbox.expect(key), time.monotonic())
                if len(execution.failures) > _FAILURES:
                    self._inbox.forget(key, execution.failures.popitem(last=False)[1].waiter)
            if len(self._executions) > _EXECUTIONS:
                self._drop(next(iter(self._executions)))
            return execution.failures[failure_id].waiter

    def give_up(self, key: str, failure_id: str, on_late: Callable[[Command], None] | None) -> None:
        """Nobody waits for the answer any more. `on_late` gets what nobody took in time and what still comes;
        None: others may follow it."""
        with self._lock:
            execution = self._executions.get(key)
            failure = execution.failures.get(failure_id) if execution else None
            if execution is None or failure is None:
                return
            attempt = execution.attempt
            if attempt is not None and failure.enrolled not in failure.answered_by and failure.enrolled:
                # It gave up in the very moment: the attempt has not succeeded as a whole.
                attempt.told = True
            if on_late is None:
                self._inbox.forget(key, failure.waiter)
                return
            unasked = self._inbox.retire(key, failure.waiter, on_late)
            # A branch that joined an attempt never asked for the command that began it.
            late = [command for command in unasked if command.command_id not in execution.attempts]
        for command in late:
            on_late(command)

    def _drop(self, key: str) -> None:
        for failure in self._executions.pop(key, _Execution()).failures.values():
            self._inbox.forget(key, failure.waiter)

    def awaited(self, key: str) -> bool:
        """Whether somebody in this process waits right now for a command of this execution."""
        return self._inbox.awaited(key)

    # -- attempts -----------------------------------------------------------------------------------

    def ended(self, command: Command, *, well: bool) -> bool:
        """One part of the attempt of `command` ended. Returns whether that is to be told: by one part only."""
        with self._lock:
            execution = self._executions.get(command.key)
            attempt = execution.attempts.get(command.command_id) if execution else None
            if attempt is None:
                return True
            attempt.parts -= 1
            if attempt.told or (well and attempt.parts > 0):
                return False
            attempt.told = True
            return True

    def finish(self, command: Command, then: Callable[[], None]) -> None:
        """The matter of `command` is closed: later attempts of its recovery are refused. Once that is kept, `then`."""
        with self._lock:
            execution = self._executions.get(command.key, _Execution())
            for failure_id, failure in list(execution.failures.items()):
                if not failure.waiter.active:
                    self._inbox.forget(command.key, execution.failures.pop(failure_id).waiter)
        self._clerk.do(lambda: self._finish(command, then))

    def _finish(self, command: Command, then: Callable[[], None]) -> None:
        try:
            self._acceptor.finish(command)
        except Exception:
            # It ended all the same: said, it will not be commanded again.
            _log.exception("omium: command %s: that it is finished cannot be kept", command.command_id)
        then()

    def settle(self, timeout_s: float) -> bool:
        """Wait until what was finished is kept; False where the time did not suffice."""
        return self._clerk.settle(timeout_s)

    def close(self) -> None:
        """End the thread of the fences."""
        self._clerk.close()

    def accept(self, command: Command) -> float | None:
        """Accept `command`: seconds until it may begin, or None where it is refused (logged and counted).

        Raises UndecidedError. Waits for the fences.
        """
        return self._clerk.do(lambda: self._accept(command, None)).result()

    def claim_expired(self, command: Command) -> bool:
        """Accept `command`, which looks expired, so that nobody else can. Raises UndecidedError."""
        return self._clerk.do(lambda: self._ask(command, EPOCH, None)).result() is None

    def _accept(self, command: Command, current: Collection[str] | None) -> float | None:
        now = self._clock.now()
        reason = self._ask(command, now, current)
        if reason is not None:
            self.refused += 1
            _log.info("omium: command %s refused: %s", command.command_id, reason)
            return None
        command.begin(now)
        return self._until_begin_s(command)

    def _ask(self, command: Command, now: datetime, current: Collection[str] | None) -> Refusal | None:
        try:
            return self._acceptor.accept(command, now, current)
        except Exception as error:
            _log.exception("omium: command %s: the fences cannot be asked", command.command_id)
            raise UndecidedError from error

    def take(self, key: str, failure_id: str, command: Command | None = None) -> Taken | None:
        """The command to follow for this failure: `command`, where it is accepted, or the one by which a parallel
        branch of the execution runs again just now.

        With a command it may wait for the fences, and is called by one thread at a time.
        """
        with self._lock:
            execution = self._executions.get(key)
            failure = execution.failures.get(failure_id) if execution else None
            if execution is None or failure is None:
                return None
            attempt = execution.attempt
            if attempt is not None and self._answers(attempt, failure):
                return self._follow(attempt, failure)
            current = tuple(execution.failures)
        if command is None:
            return None
        if self._until_begin_s(command) > self._hold_s:
            _log.info("omium: command %s begins too late to wait for it", command.command_id)
            return None
        try:
            if self._accept(command, current) is None:
                return None
        except UndecidedError:
            return None
        with self._lock:
            return self._follow(execution.begin(command, failure), failure)

    def _answers(self, attempt: _Attempt, failure: _Failure) -> bool:
        """Whether a failure is one of the parallel branches that the attempt resumes."""
        if attempt.command.command_id in failure.answered_by:
            return False
        in_time = failure.reported_at <= attempt.began_at + _BRANCH_GRACE_S
        return failure.enrolled == attempt.command.command_id or (in_time and not attempt.told)

    def _follow(self, attempt: _Attempt, failure: _Failure) -> Taken:
        command = attempt.command
        if failure.enrolled != command.command_id:
            attempt.parts += 1
        failure.answered_by.add(command.command_id)
        return command, self._until_begin_s(command)

    def _until_begin_s(self, command: Command) -> float:
        return max(0.0, (command.not_before - self._clock.now()).total_seconds())

    # -- waiting ------------------------------------------------------------------------------------

    def wait(self, key: str, failure_id: str, timeout_s: float) -> Command | None:
        """See `Run.wait`."""
        until = time.monotonic() + timeout_s
        with self._waiting(key, failure_id) as waiter:
            taken = self.take(key, failure_id)
            while taken is None and waiter is not None:
                asked = waiter.next()
                try:
                    command = asked.result(max(0.0, until - time.monotonic()))
                except FutureTimeout:
                    if asked.cancel():
                        break
                    command = asked.result()
                except BaseException:
                    waiter.withdraw(asked)
                    raise
                with self._deciding(key, failure_id, waiter, command) as decided:
                    taken = decided.result()
            # A branch's command may have enrolled this failure just now.
            taken = taken or self.take(key, failure_id)
        if taken is None:
            return None
        with self._holding(key, failure_id, taken) as hold_s:
            time.sleep(hold_s)
        return taken[0]

    async def wait_async(self, key: str, failure_id: str, timeout_s: float) -> Command | None:
        """See `Run.wait_async`."""
        until = time.monotonic() + timeout_s
        with self._waiting(key, failure_id) as waiter:
            taken = self.take(key, failure_id)
            while taken is None and waiter is not None:
                asked = waiter.next()
                try:
                    left_s = max(0.0, until - time.monotonic())
                    command = await asyncio.wait_for(asyncio.wrap_future(asked), left_s)
                except TimeoutError:
                    if asked.cancel():
                        break
                    command = asked.result()
                except BaseException:
                    waiter.withdraw(asked)
                    raise
                with self._deciding(key, failure_id, waiter, command) as decided:
                    taken = await asyncio.wrap_future(decided)
            taken = taken or self.take(key, failure_id)
        if taken is None:
            return None
        with self._holding(key, failure_id, taken) as hold_s:
            await asyncio.sleep(hold_s)
        return taken[0]

    @contextmanager
    def _deciding(self, key: str, failure_id: str, waiter: Waiter, command: Command) -> Iterator[Future[Taken | None]]:
        """Whether `command` is taken. Where its waiter is interrupted meanwhile, the next one to wait gets it."""
        decided = self._clerk.do(lambda: self.take(key, failure_id, command))
        try:
            yield decided
        except BaseException:
            if decided.cancel():
                waiter.put_back(command)
            else:
                decided.add_done_callback(lambda done: self._give_back(key, failure_id, done.result()))
            raise

    @contextmanager
    def _holding(self, key: str, failure_id: str, taken: Taken) -> Iterator[float]:
        """The seconds until it begins. Where its waiter is interrupted meanwhile, the next one to wait gets it."""
        try:
            yield taken[1]
        except BaseException:
            self._give_back(key, failure_id, taken)
            raise

    def _give_back(self, key: str, failure_id: str, taken: Taken | None) -> None:
        with self._lock:
            execution = self._executions.get(key, _Execution())
            failure = execution.failures.get(failure_id)
            if taken is not None and failure is not None:
                failure.enrolled = taken[0].command_id
                failure.answered_by.discard(failure.enrolled)

    @contextmanager
    def _waiting(self, key: str, failure_id: str) -> Iterator[Waiter | None]:
        """The waiter of the failure; None where no command can come, since there was never a connection."""
        if self._inbox.unreachable:
            yield None
            return
        waiter = self.expect(key, failure_id)
        with self._lock:
            waiter.active += 1
        try:
            yield waiter
        finally:
            with self._lock:
                waiter.active -= 1
