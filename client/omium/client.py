"""The client of an agent runtime: reports failures, receives commands, tells how resumed runs ended."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack

from omium import codec
from omium.acceptor import Acceptor, FenceStore, MemoryFences
from omium.clock import BrokerClock
from omium.config import consumer_config, from_env, producer_config
from omium.inbox import Inbox
from omium.outbox import Outbox
from omium.pending import Pending
from omium.records import Agent
from omium.run import Run
from omium.serve import Handler, Service
from omium.step import StepOptions, step

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("omium")
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


@dataclass(frozen=True, slots=True)
class _Connection:
    """What belongs to one process."""

    clock: BrokerClock
    inbox: Inbox
    outbox: Outbox
    pending: Pending


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
        self.environment = environment
        self.source = f"omium/client/{self.agent.id or 'agent'}"
        self.acceptor = Acceptor(fences or MemoryFences())
        self.consumer_config = consumer_config(bootstrap, kafka)
        self._producer_config = producer_config(bootstrap, kafka)
        self._hold_s = hold_s
        self._queue_records = queue_records
        self._unsent = 0
        self._starting = threading.Lock()
        self._connection: _Connection | None = self._open()
        _CLIENTS.add(self)
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
        here = self._live
        dropped = here.outbox.dropped + self._unsent
        return Stats(here.outbox.delivered, dropped, here.pending.refused, here.inbox.undecodable)

    @property
    def unreachable(self) -> bool:
        """Whether there never was a connection and none can be made: then no step waits for a command."""
        return self._live.inbox.unreachable

    def ready(self, timeout_s: float) -> bool:
        """Wait until commands would be received. Not needed: failures wait for it in the queue."""
        return self._live.inbox.positioned.wait(timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged or dropped; False where the time did not suffice."""
        until = time.monotonic() + timeout_s
        # An outcome is sent once it is kept that its matter is closed.
        kept = self._live.pending.settle(timeout_s)
        return self._live.outbox.flush(max(0.0, until - time.monotonic())) and kept

    def close(self, timeout_s: float = _AT_EXIT_S) -> None:
        """Send what is queued, for at most `timeout_s`, and stop. Happens at the interpreter's exit by itself."""
        atexit.unregister(self._at_exit)
        if (here := self._connection) is not None:
            # Nobody there since the start: waiting would only hold up the exit.
            until = time.monotonic() + (0.0 if here.inbox.unreachable else timeout_s)
            here.pending.settle(max(0.0, until - time.monotonic()))
            here.pending.close()
            here.outbox.close(max(0.0, until - time.monotonic()))
            here.inbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for Run and Service ------------------------------------------------------------------------

    @property
    def clock(self) -> BrokerClock:
        """The broker's clock, as far as it is known."""
        return self._live.clock

    @property
    def pending(self) -> Pending:
        """The failures that this process waits with."""
        return self._live.pending

    @property
    def _live(self) -> _Connection:
        """The connection of this process: a forked child opens its own at its first use."""
        if self._connection is None:
            with self._starting:
                if self._connection is None:
                    self._connection = self._open()
        return self._connection

    def forked(self) -> None:
        """In a forked child: the parent's threads are not here, its connections are not ours, its locks may be held."""
        _OF_PARENT.append(self._connection)
        self._connection = None
        self._starting = threading.Lock()
        if (forked := getattr(self.acceptor.store, "forked", None)) is not None:
            forked()

    def _open(self) -> _Connection:
        clock = BrokerClock()
        inbox = Inbox(self.consumer_config, clock, lambda: outbox.wake())
        outbox = Outbox(self._producer_config, clock, lambda: inbox.ready, self._queue_records)
        inbox.start()
        outbox.start()
        return _Connection(clock, inbox, outbox, Pending(inbox, self.acceptor, clock, self._hold_s))

    def post(self, message: codec.Message) -> None:
        """Queue a record; never waits."""
        if not self._live.outbox.post(message):
            _log.warning("omium: no room for %s %s: dropped", message.topic, message.event_id)

    def lost(self, what: str) -> None:
        """Count and log a record that could not even be built. Call in an exception's handler."""
        self._unsent += 1
        _log.exception("omium: a %s could not be reported", what)


def _close(method: weakref.WeakMethod[Callable[..., None]]) -> None:
    if (close := method()) is not None:
        close(_AT_EXIT_S)


# Destroying a librdkafka client in a forked child waits for threads that are not there: kept instead.
_OF_PARENT: Final[list[object]] = []
_CLIENTS: Final[weakref.WeakSet[Omium]] = weakref.WeakSet()


def _forked() -> None:
    for client in tuple(_CLIENTS):
        client.forked()


os.register_at_fork(after_in_child=_forked)
