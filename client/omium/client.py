"""The client of an agent runtime: reports failures, receives commands, tells how resumed runs ended."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack

from omium import codec
from omium.acceptor import Acceptor, FenceStore, MemoryFences
from omium.clock import BrokerClock
from omium.config import consumer_config, from_env, producer_config
from omium.inbox import Inbox, Waiter
from omium.outbox import Outbox
from omium.records import Agent, Command
from omium.run import Run
from omium.serve import Handler, Service
from omium.step import StepOptions, step

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("omium")
_REMEMBERED: Final = 10_000
_AT_EXIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What became of the records since the start."""

    delivered: int
    """Acknowledged by the broker."""
    dropped: int
    """No room in the queue, not accepted by the broker, or not buildable."""
    refused: int
    """Commands that the acceptor refused."""
    undecodable: int
    """Commands that this version cannot read."""


class Omium:
    """One per process, made at its start: it connects in the background, so that it listens before a step fails.

    Nothing here waits for the broker on the agent's path, save `wait`, and that at most as long as it is
    told. With the broker gone, records queue up to `queue_records`, then are dropped and counted; steps
    raise their own exceptions.
    """

    def __init__(
        self,
        bootstrap: str,
        tenant_id: str,
        agent: Agent | None = None,
        *,
        wait_s: float = 2.0,
        hold_s: float = 60.0,
        environment: str | None = None,
        fences: FenceStore | None = None,
        queue_records: int = 10_000,
        **kafka: Any,
    ) -> None:
        """Connect to the brokers at `bootstrap` (host:port, comma separated), and listen.

        `wait_s`: how long a failed step waits for its command. `hold_s`: how far in the future a
        command's `not_before` may be for the step to wait for it too. `fences`: where accepted commands
        are remembered; by default in memory, which is right for waiting in place (see `serve`).
        `kafka`: librdkafka's settings, their dots written as underscores: `security_protocol="SASL_SSL"`.
        Raises ValueError where `tenant_id` is not 1 to 64 of letters, digits, `.`, `_`, `-`.
        """
        self.tenant_id = codec.tenant(tenant_id)
        self.agent = agent or Agent()
        self.wait_s = wait_s
        self.hold_s = hold_s
        self.environment = environment
        self.source = f"omium/client/{self.agent.id or 'agent'}"
        self.clock = BrokerClock()
        self.acceptor = Acceptor(fences or MemoryFences())
        self.consumer_config = consumer_config(bootstrap, kafka)
        self._unsent = 0
        self._refused = 0
        # Failures that this process waits with, by execution; and the waiters of those reported last.
        self._failures: OrderedDict[str, set[str]] = OrderedDict()
        self._waiters: OrderedDict[str, tuple[str, Waiter]] = OrderedDict()
        self._inbox = Inbox(self.consumer_config, self.clock, lambda: self._outbox.wake())
        self._outbox = Outbox(producer_config(bootstrap, kafka), self.clock, lambda: self._inbox.ready, queue_records)
        self._inbox.start()
        self._outbox.start()
        self._at_exit = weakref.WeakMethod(self.close)
        atexit.register(_close, self._at_exit)

    @classmethod
    def from_env(cls, agent: Agent | None = None, **options: Any) -> Self:
        """A client by the environment: OMIUM_BOOTSTRAP, OMIUM_TENANT_ID, OMIUM_AGENT_ID, OMIUM_ENVIRONMENT,
        OMIUM_WAIT_S, OMIUM_SECURITY_PROTOCOL, OMIUM_SASL_*, OMIUM_SSL_*; `options` come first."""
        return cls(**from_env(os.environ, agent) | options)

    def run(self, execution_id: str, *, traceparent: str | None = None) -> Run:
        """A handle for one execution. Raises ValueError where the id is empty, above 256 or has control characters."""
        return Run(self, execution_id, traceparent, self.environment)

    def step(self, name: str, **options: Unpack[StepOptions]) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a step, a function or coroutine function: see `omium.step.step`.

        On an exception, or an answer that breaks its constraints, the step is reported; it waits in place
        up to `wait_s` for the command, then runs again with the modifications; and so on, attempt by
        attempt. Where no command comes it raises what it would have raised without this.
        """
        return step(self, name, options)

    def serve(
        self, handler: Handler, *, group: str | None = None, workers: int = 4, agent_id: str | None = None
    ) -> Service:
        """Follow commands that come later, or that answer other processes' failures, in threads of its own.

        `.join()` blocks. Give the client `fences=SqliteFences(path)` for this. See `omium.serve.Service`.
        """
        return Service(self, handler, group=group, workers=workers, agent_id=agent_id)

    @property
    def stats(self) -> Stats:
        """What became of the records so far."""
        return Stats(
            self._outbox.delivered, self._outbox.dropped + self._unsent, self._refused, self._inbox.undecodable
        )

    def ready(self, timeout_s: float) -> bool:
        """Wait until commands would be received. Not needed: failures wait for it in the queue."""
        return self._inbox.positioned.wait(timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged or dropped; False where the time did not suffice."""
        return self._outbox.flush(timeout_s)

    def close(self, timeout_s: float = _AT_EXIT_S) -> None:
        """Send what is queued, for at most `timeout_s`, and stop. Happens at the interpreter's exit by itself."""
        atexit.unregister(self._at_exit)
        self._outbox.close(timeout_s)
        self._inbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for Run and Service ------------------------------------------------------------------------

    def post(self, message: codec.Message) -> None:
        """Queue a record; never waits."""
        if not self._outbox.post(message):
            _log.warning("omium: no room for %s %s: dropped", message.topic, message.event_id)

    def lost(self, what: str) -> None:
        """Count and log a record that could not even be built. Call in an exception's handler."""
        self._unsent += 1
        _log.exception("omium: a %s could not be reported", what)

    def expect(self, key: str, failure_id: str) -> None:
        """Listen for the answer to a failure that is about to be reported."""
        if failure_id in self._waiters:
            return
        self._failures.setdefault(key, set()).add(failure_id)
        self._failures.move_to_end(key)
        self._waiters[failure_id] = (key, self._inbox.expect(key))
        while len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        while len(self._waiters) > _REMEMBERED:
            self._inbox.forget(*self._waiters.popitem(last=False)[1])

    def forget(self, failure_id: str) -> None:
        """Nobody waits for the answer to this failure any more."""
        if (found := self._waiters.pop(failure_id, None)) is not None:
            self._inbox.forget(*found)

    def awaited(self, key: str) -> bool:
        """Whether somebody in this process waits right now for a command of this execution."""
        return self._inbox.awaited(key)

    def finish(self, command: Command) -> None:
        """The matter of `command` is ended: later attempts of its recovery are refused."""
        self.acceptor.finish(command)
        for failure_id in self._failures.pop(command.key, ()):
            self.forget(failure_id)

    def wait(self, key: str, failure_id: str, timeout_s: float | None) -> Command | None:
        """See `Run.wait`."""
        until = time.monotonic() + (self.wait_s if timeout_s is None else timeout_s)
        with self._waiting(key, failure_id) as waiter:
            while waiter is not None and (left_s := until - time.monotonic()) > 0:
                try:
                    command = waiter.next().result(left_s)
                except FutureTimeout:
                    return None
                hold_s = self.accept(command, in_place=True)
                if hold_s is not None:
                    time.sleep(hold_s)
                    return command
        return None

    async def wait_async(self, key: str, failure_id: str, timeout_s: float | None) -> Command | None:
        """See `Run.wait_async`."""
        until = time.monotonic() + (self.wait_s if timeout_s is None else timeout_s)
        with self._waiting(key, failure_id) as waiter:
            while waiter is not None and (left_s := until - time.monotonic()) > 0:
                try:
                    command = await asyncio.wait_for(asyncio.wrap_future(waiter.next()), left_s)
                except TimeoutError:
                    return None
                hold_s = self.accept(command, in_place=True)
                if hold_s is not None:
                    await asyncio.sleep(hold_s)
                    return command
        return None

    @contextmanager
    def _waiting(self, key: str, failure_id: str) -> Iterator[Waiter | None]:
        """The waiter of the failure; None where no command can come, since there was never a connection."""
        if self._inbox.unreachable:
            yield None
            return
        self.expect(key, failure_id)
        _, waiter = self._waiters[failure_id]
        waiter.active = True
        try:
            yield waiter
        finally:
            waiter.active = False

    def accept(self, command: Command, *, in_place: bool) -> float | None:
        """Accept `command`: seconds until it may begin, or None where it is refused (which is logged and counted)."""
        now = self.clock.now()
        hold_s = max(0.0, (command.not_before - now).total_seconds())
        if in_place and hold_s > self.hold_s:
            _log.info("omium: command %s begins in %.0f s: not waited for", command.command_id, hold_s)
            return None
        try:
            reason = self.acceptor.accept(command, now, self._failures.get(command.key) if in_place else None)
        except Exception:
            _log.exception("omium: command %s: the fences cannot be read", command.command_id)
            return None
        if reason is not None:
            self._refused += 1
            _log.info("omium: command %s refused: %s", command.command_id, reason)
            return None
        command.begin(now)
        return hold_s


def _close(method: weakref.WeakMethod[Callable[..., None]]) -> None:
    if (close := method()) is not None:
        close(_AT_EXIT_S)
