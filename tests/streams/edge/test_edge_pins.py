"""The edge overrides parts of Faust that carry no promise: it is right for these versions, and for this source."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from typing import Any

import pytest
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, Fetcher
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

READ = {
    "faust-streaming": "0.15.3",
    "mode-streaming": "0.7.1",
    "aiokafka": "0.14.0",
}


@pytest.mark.parametrize(("name", "expected"), READ.items())
def test_versions_that_were_read(name: str, expected: str) -> None:
    """A newer one: read what changed in the functions below, run the loss tests, then move this."""
    assert version(name) == expected


@pytest.mark.parametrize(
    ("function", "digest"),
    [
        (Consumer._drain_messages, "44a2500309e83c63"),
        (Consumer.commit, "a354437baaa08bf8"),
        (Consumer._commit_tps, "a20e230b05ae8b15"),
        (Consumer.on_partitions_revoked, "d04b7ae72c6fc206"),
        (Consumer.on_stop, "45b1d2210ce2b526"),
        (Consumer.stop_flow, "cf7e875a2b0d40e8"),
        (Consumer.perform_seek, "0e8c130ff4b0afd8"),
        (Fetcher._fetcher, "68f894f0b577d810"),
        (AIOKafkaConsumerThread._create_worker_consumer, "c2701bfc3e6f6cad"),
        (AIOKafkaConsumerThread._fetch_records, "39a2c6c79fc1455a"),
        (AIOKafkaConsumerThread._commit, "932852ce7a23f658"),
        (App._stop_consumer, "55854a5de12c3f52"),
        (App._on_partitions_revoked, "d5c895bbe57dc73a"),
        (Recovery.on_recovery_completed, "6ef567acf072e46d"),
        (Recovery._resume_streams, "d986a6710c1aca98"),
        (Recovery._slurp_changelogs, "7825c7e50f766d5a"),
    ],
    ids=lambda value: getattr(value, "__qualname__", "") or None,
)
def test_what_is_overridden_or_relied_on_is_what_was_read(function: Any, digest: str) -> None:
    source = inspect.getsource(getattr(function, "fun", function))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == digest
