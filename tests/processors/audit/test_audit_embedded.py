"""One process owns the embedded engine; others read it over HTTP, and can do nothing else."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from processors.audit.embedded import EmbeddedEngine, EmbeddedError, OwnedError, folder, owner_url, reading
from processors.audit.store import Store, connect
from tests.processors.audit.scene import Scene

pytestmark = pytest.mark.integration


@pytest.fixture
def address(store: Store, engine_url: str) -> str:
    address = owner_url(engine_url)
    assert address is not None
    return address


@pytest.fixture
def reader(address: str) -> Iterator[Any]:
    client = connect(address)
    yield client
    client.close()


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE audit_events",
        "INSERT INTO audit_events (kind) VALUES ('forged')",
        "ALTER TABLE audit_events DELETE WHERE 1",
        "TRUNCATE TABLE audit_events",
        "CREATE TABLE t (a Int8) ENGINE = Memory",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT 1 INTO OUTFILE '{tmp}/stolen'",
        "SELECT 1 into/**/outfile '{tmp}/stolen'",
    ],
)
def test_a_reader_can_only_read(reader: Any, store: Store, tmp_path: Path, query: str) -> None:
    before = store.client.command("SELECT count() FROM audit_events")
    with pytest.raises(DatabaseError):
        reader.command(query.replace("{tmp}", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    assert store.client.command("SELECT count() FROM audit_events") == before


def test_the_ordinary_client_reads_types_parameters_and_formats(reader: Any, store: Store, tenant: str) -> None:
    rows = Scene(tenant).recovered().rows
    store.insert(rows)
    query = "SELECT topic_id, offset, appended_at, body FROM v_events WHERE tenant_id = {t:String} ORDER BY offset"
    found = reader.query(query, parameters={"t": tenant}).result_rows
    assert [(r[0], r[1], int(r[2].timestamp() * 1000), r[3].encode()) for r in found] == [
        (r.topic_id, r.offset, r.appended_at, r.body) for r in sorted(rows, key=lambda r: r.offset)
    ]
    assert reader.query("SELECT {x:String} AS x", parameters={"x": "it's \\ 'quoted'"}).result_rows == [
        ("it's \\ 'quoted'",)
    ]
    assert reader.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    assert reader.ping()


def status_of(address: str, data: bytes, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers or {}), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_nothing_is_answered_without_the_password(address: str) -> None:
    bare = "http://127.0.0.1:" + address.rpartition(":")[2]
    assert status_of(bare, b"SELECT 1") == 401
    assert status_of(bare, b"SELECT 1", {"Authorization": "Basic cmVhZGVyOng="}) == 401
    assert status_of(bare, b"SELECT 1", {"Authorization": "\u00e9"}) == 401
    assert status_of(bare, b"x" * 2_000_000) == 413


def test_only_the_owner_of_the_folder_can_read_the_password(store: Store, engine_url: str) -> None:
    assert (folder(engine_url) / "omium-owner.json").stat().st_mode & 0o077 == 0


def test_a_second_owner_is_refused(store: Store, engine_url: str) -> None:
    with pytest.raises(OwnedError):
        EmbeddedEngine(engine_url).start(timeout_s=0.2)


def test_what_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="there is no embedded ClickHouse"), reading(f"chdb://{tmp_path}/none"):
        pass
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("url", ["chdb://relative/path", "chdb:///", "chdb:"])
def test_a_folder_is_named_by_its_absolute_path(url: str) -> None:
    with pytest.raises(EmbeddedError):
        folder(url)


_OWNER = """
import sys
from processors.audit.store import Store
from tests.processors.audit.scene import Scene
store = Store(sys.argv[1])
store.insert(Scene("acme").recovered().rows)
print("ready", flush=True)
sys.stdin.read()
store.close()
"""
_READ = """
import sys
from processors.audit.store import reader
with reader(sys.argv[1]) as client:
    print(client.command("SELECT count() FROM v_events"))
"""
_BUSY_CLOSE = """
import sys, threading, time
from processors.audit.embedded import owner_url
from processors.audit.store import Store, connect
store = Store(sys.argv[1])
store.open()
client = connect(owner_url(sys.argv[1]))
def query():
    try:
        client.command("SELECT sum(sipHash64(number)) FROM numbers(10000000000)")
    except Exception:
        pass
threads = [threading.Thread(target=query, daemon=True) for _ in range(3)]
[t.start() for t in threads]
while not store.client.command("SELECT count() > 1 FROM system.processes"):
    time.sleep(0.01)
store.close()
"""


def test_what_a_killed_owner_acknowledged_is_there_and_its_address_is_not(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path / 'data'}"
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        read = [sys.executable, "-c", _READ, url]
        assert subprocess.run(read, capture_output=True, text=True, check=True, timeout=60).stdout == "8\n"
        assert owner_url(url)
        owner.kill()
    assert owner_url(url) is None
    assert subprocess.run(read, capture_output=True, text=True, check=True, timeout=60).stdout == "8\n"


def test_closing_ends_the_queries_that_run(tmp_path: Path) -> None:
    """They would run for minutes, and chDB ends the process by a signal where a handle outlives its engine."""
    command = [sys.executable, "-c", _BUSY_CLOSE, f"chdb://{tmp_path / 'data'}"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
