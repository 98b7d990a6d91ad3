"""The real broker, with the contract's topics on it. Tests may import the repository; the client may not."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from omium import Agent, Omium
from orchestrator import Orchestrator

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """Address of a broker that has the topics; the client's tests share it."""
    with Broker() as broker:
        topics.create(Settings(bootstrap=broker.bootstrap))
        yield broker.bootstrap


@pytest.fixture
def tenant() -> str:
    """A tenant of this test's own: tests share the topics."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client(bootstrap: str, tenant: str) -> Iterator[Omium]:
    with Omium(bootstrap, tenant, Agent(id="loan"), wait_s=10) as client:
        yield client


@pytest.fixture
def orchestrator(bootstrap: str, tenant: str) -> Iterator[Orchestrator]:
    with Orchestrator(bootstrap, tenant) as orchestrator:
        yield orchestrator
