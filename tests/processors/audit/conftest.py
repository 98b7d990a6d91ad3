"""The real engine for the views: one folder a process, because chDB can have only one open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from processors.audit.store import Store

_tenants = itertools.count(1)


@pytest.fixture(scope="package")
def engine_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"chdb://{tmp_path_factory.mktemp('engine') / 'data'}"


@pytest.fixture(scope="package")
def store(engine_url: str) -> Iterator[Store]:
    with Store(engine_url) as store:
        store.open()
        yield store


@pytest.fixture
def tenant() -> str:
    """A tenant of this test's own: all tests share the tables."""
    return f"tenant-{next(_tenants)}"


@pytest.fixture
def ask(store: Store) -> Callable[..., list[dict[str, Any]]]:
    """Rows of a query as dicts."""

    def query(sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return list(store.client.query(sql, parameters=parameters).named_results())

    return query


def folder_of(url: str) -> Path:
    return Path(url.removeprefix("chdb://"))
