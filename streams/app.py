"""The streams worker as one Faust app: failures to options, settled attempts to confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

from ops.runtime.metrics import FAILURES_DETECTED
from ops.runtime.settings import Settings
from schemas.codec import Encoded, Malformed, decode, encode
from schemas.flows import dependency_header
from schemas.records import ErrorInfo, FailureEvent, Origin, RecoveryOptions
from schemas.topics import FAILURES, OPTIONS, SETTLED
from streams.decide import Judgement, Rates
from streams.decide.catalogue import Learning
from streams.edge.agent import Handler, Later, Mapper, Record
from streams.edge.app import App, new_app
from streams.edge.outputs import Outputs
from streams.edge.table import WindowedTable, changelog_name, create_changelog
from streams.edge.verifier import Verification
from streams.learning.counts import HOUR_S
from streams.learning.learner import TABLE, Learner

WORKER: Final = "streams"
SOURCE: Final = f"omium/{WORKER}"
INPUTS: Final = (FAILURES, SETTLED)
"""Topics of which a worker that is ready has partitions."""


class Decide(Protocol):
    """`streams.decide.decide`, with the catalogue bound."""

    def __call__(
        self,
        event: FailureEvent,
        *,
        failure_id: str,
        origin: Origin,
        rates: Rates,
        now: datetime,
        judgements: Sequence[Judgement] = (),
    ) -> RecoveryOptions: ...


def detect(decide: Decide, rates: Callable[[], Rates], verification: Verification | None = None) -> Handler:
    """The handler of agent.failures: one RecoveryOptions for each failure that can be read."""

    def handle(record: Record) -> Encoded | Malformed | Later:
        decoded = decode(record.topic, record.value, record.headers)
        if isinstance(decoded, Malformed):
            return decoded
        event = decoded.record
        assert isinstance(event, FailureEvent)
        if verification is not None and (claims := verification.claims(event)):
            return Later(partial(verification.judge, event, claims), partial(answer, record, event, decoded.trace))
        return answer(record, event, decoded.trace)

    def answer(
        record: Record,
        event: FailureEvent,
        trace: Iterable[tuple[str, bytes]],
        judgements: Sequence[Judgement] = (),
    ) -> Encoded:
        options = decide(
            event,
            failure_id=event.identity(record.partition, record.offset),
            origin=Origin(partition=record.partition, offset=record.offset),
            rates=rates(),
            now=datetime.now(UTC),
            judgements=judgements,
        )
        category = options.classification.category
        FAILURES_DETECTED.labels(category).inc()
        return encode(OPTIONS[category], options, source=SOURCE, trace=(*trace, *dependency_header(event)))

    return handle


async def build(
    settings: Settings,
    decide: Decide,
    rates: Callable[[], Rates],
    learning: Learning,
    verification: Verification | None = None,
) -> App:
    """The app, ready to start on the running loop."""
    app = new_app(settings, WORKER)
    app.outputs = Outputs(settings, app.fail)
    mapper = Mapper(
        detect(decide, rates, verification),
        app.outputs,
        worker=WORKER,
        fail=app.fail,
        read_ahead_bytes=settings.read_ahead_bytes,
    )
    app.reads(FAILURES.name, mapper.run)
    table = WindowedTable.add(app, TABLE, size_s=HOUR_S, partitions=settings.partitions)
    learner = Learner(app, table, rates, learning, worker=WORKER)
    app.batches(SETTLED.name, learner.run)
    app.task(learner.publish_forever)
    return app


def warm_up(decide: Decide) -> None:
    """Decide once and forget it: rules and schemas are compiled at the first use, 50 ms that no failure should wait."""
    now = datetime.now(UTC)
    event = FailureEvent(tenant_id="warm-up", execution_id="warm-up", error=ErrorInfo(message="timeout after 1 s"))
    value = encode(FAILURES, event, source=SOURCE).value
    decode(FAILURES.name, value)
    options = decide(event, failure_id="0-0", origin=Origin(partition=0, offset=0), rates=Rates(), now=now)
    encode(OPTIONS[options.classification.category], options, source=SOURCE)


def prepare(settings: Settings) -> None:
    """Create what the worker needs on the broker beside the topics of the contract."""
    create_changelog(settings, changelog_name(settings, WORKER, TABLE))
