"""The Faust app, made from our settings, with our transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import faust
from faust.exceptions import ConsumerNotStarted
from faust.types.auth import SASLMechanism
from mode.utils.queues import ThrowableQueue
from yarl import URL

from ops.runtime.settings import Settings
from streams.edge.outputs import Outputs
from streams.edge.transport import Batch, Consumer, Inbox, Transport

COMMIT_S: Final = 0.5
SESSION_S: Final = 6.0
"""A worker that was killed is missed after this long; brokers allow no less by default."""

Body = Callable[[Batch], Awaitable[None]]
Reader = Callable[[Inbox], Awaitable[None]]


class Topic(faust.Topic):
    """A topic whose queue nobody empties behind the agent's back."""

    @property
    def queue(self) -> ThrowableQueue[Batch]:
        """Faust empties its queues when flow resumes, also of records it will not fetch again. Batches that must
        not be begun any more say so themselves."""
        if self._queue is None:
            self._queue = ThrowableQueue(maxsize=0, flow_control=self.app.flow_control, clear_on_resume=False)
        return self._queue

    async def declare(self) -> None:
        """Nothing: topics are created and verified before the worker starts."""


class App(faust.App):
    """A Faust app on `streams.edge.transport`."""

    outputs: Outputs
    read_ahead_bytes: int
    """Of a partition; see Settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._readers: set[asyncio.Task[None]] = set()
        self._failing: asyncio.Future[None] | None = None

    async def on_stop(self) -> None:
        """As Faust's, which commits what is done; then no record that is still being handled holds the stop up."""
        await super().on_stop()
        for reader in self._readers:
            reader.cancel()

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """None: tables are in memory, rebuilt from their changelog."""

    def fail(self, error: Exception) -> None:
        """End the worker for `error`. On its loop, where nobody could catch it."""
        self._failing = asyncio.ensure_future(self.crash(error))

    async def outputs_drained(self, timeout_s: float) -> bool:
        """Wait until nothing that was begun is in flight; False where that took longer."""
        return await self.outputs.drained(timeout_s)

    def batches(self, topic: str, body: Body) -> None:
        """Let `body` have every batch of `topic`, one after the other. What it raises ends the worker."""

        async def each(inbox: Inbox) -> None:
            while True:
                await body(await inbox.next())

        self.reads(topic, each)

    def reads(self, topic: str, reader: Reader) -> None:
        """Let `reader`, which never ends, read `topic`. What it raises ends the worker: it must handle its own."""

        async def agent(stream: Any) -> None:
            self._readers.add(cast("asyncio.Task[None]", asyncio.current_task()))
            try:
                await reader(Inbox(stream.channel.queue))
            except StopAsyncIteration:
                """How Faust ends a stream."""
            except asyncio.CancelledError:
                if not self.should_stop:
                    raise
            except Exception as error:
                await self.crash(error)
                # Faust would start the agent again, and go on behind this record.
                await self.wait_until_stopped()

        self.agent(self.topic(topic, key_type=bytes, value_type=bytes), name=topic)(agent)

    def assigned_topics(self) -> set[str]:
        """Topics of which at least one partition is assigned here. Safe from any thread."""
        consumer = cast(Consumer | None, self._consumer)
        if consumer is None or self.rebalancing or not consumer.flow_active:
            return set()
        try:
            return consumer.assigned_topics()
        except ConsumerNotStarted:
            return set()


def new_app(settings: Settings, name: str) -> App:
    """An app of group `{settings.app}-{name}`."""
    hosts = [URL(f"aiokafka://{host.strip()}") for host in settings.bootstrap.split(",")]
    app = App(
        f"{settings.app}-{name}",
        broker=hosts,
        broker_credentials=_credentials(settings),
        broker_commit_interval=COMMIT_S,
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=SESSION_S / 3,
        broker_max_poll_records=1000,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,
        stream_recovery_delay=0.0,
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
        store="memory://",
        Topic=Topic,
    )
    app.read_ahead_bytes = settings.read_ahead_bytes
    return app


def _credentials(settings: Settings) -> Any:
    context = settings.ssl_context()
    if settings.security_protocol.startswith("SASL"):
        password = settings.sasl_password
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=password.get_secret_value() if password else None,
            mechanism=SASLMechanism(settings.sasl_mechanism or "PLAIN"),
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None
