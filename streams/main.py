"""The streams worker as a process."""

from __future__ import annotations

import gc
import logging
from functools import partial

from confluent_kafka import KafkaException

from ops.runtime import garbage, logs, topics
from ops.runtime.health import HealthServer
from ops.runtime.lag import LagReporter
from ops.runtime.settings import Settings
from streams.app import INPUTS, WORKER, build, prepare, warm_up
from streams.decide import catalogue, claims_to_verify, decide
from streams.decide.classify import Rules, load_rules
from streams.edge.app import App
from streams.edge.run import run as run_app
from streams.edge.verifier import Verification, VerifierError, load
from streams.learning.confidence import ConfidenceView

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT, then return 0; 1 where the worker cannot go on, with the reason in the log."""
    logs.configure(settings)
    try:
        topics.verify(settings)
        prepare(settings)
        own_rules = [settings.rules_file] if settings.rules_file else []
        rules = load_rules(*own_rules)
        known = catalogue.load(settings.catalogue_file)
        answer = partial(decide, catalogue=known, rules=rules)
        warm_up(answer)
        garbage.settle()
        verification = _verification(settings, rules)
    except (topics.TopicsError, KafkaException, ValueError, OSError, VerifierError) as error:
        log.critical("%s", error)
        return 1
    names = [topic.name for topic in INPUTS]
    view = ConfidenceView(settings)
    app: App | None = None

    async def start() -> App:
        nonlocal app
        app = await build(settings, answer, lambda: view.rates, known.learning, verification)
        return app

    def readiness() -> str | None:
        assigned = app.assigned_topics() if app else set()
        if missing := [name for name in names if name not in assigned]:
            return f"no partition assigned of {', '.join(missing)}"
        return None if view.complete else "the confidence topic is not read to its end yet"

    health = HealthServer(settings.metrics_host, settings.metrics_port, readiness)
    log.info("streams: http://%s:%d/metrics", settings.metrics_host, health.port)
    lag = LagReporter(settings, f"{settings.app}-{WORKER}", names)
    # What is loaded by now stays. A full collection looks at all of it, and holds every failure up for 25 ms and more.
    gc.freeze()
    try:
        return run_app(start)
    finally:
        lag.close()
        view.close()
        health.close()


def _verification(settings: Settings, rules: Rules) -> Verification | None:
    if settings.verifier is None:
        return None
    return Verification(
        load(settings.verifier),
        partial(claims_to_verify, rules=rules),
        timeout_s=settings.verifier_timeout_s,
        concurrency=settings.verifier_concurrency,
    )
