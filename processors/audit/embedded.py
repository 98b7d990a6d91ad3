"""The embedded ClickHouse engine (chDB): one process owns its folder, and answers the others over HTTP.

chDB refuses a second process on the same folder. The owner holds a lock on `omium-owner.json` in that
folder, and writes there the address at which it answers: read-only, on loopback, with a password that
only readers of the folder know. A lock ends with its process, so a killed owner leaves nothing stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import clickhouse_connect
import orjson

if TYPE_CHECKING:
    from processors.audit.http import ReadOnlyServer


CHDB: Final = "chdb:"
_LOCK_FILE: Final = "omium-owner.json"
_POLL_S: Final = 0.05


class EmbeddedError(Exception):
    """The embedded engine cannot be opened."""


class OwnedError(EmbeddedError):
    """Another process owns it."""


def folder(url: str) -> Path:
    """The folder of `chdb:///absolute/path`."""
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
        raise EmbeddedError(f"{url}: expected chdb:///absolute/path")
    return Path(parts.path)


def owner_url(url: str) -> str | None:
    """Where the process that owns the engine at `url` answers, or None where none does."""
    try:
        with (folder(url) / _LOCK_FILE).open("rb") as file:
            if _lock(file, fcntl.LOCK_SH):
                return None
            document = orjson.loads(file.read() or b"{}")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    address: str | None = document.get("url")
    return address


@contextlib.contextmanager
def reading(url: str, timeout_s: float = 10.0) -> Iterator[str]:
    """The address at which the engine at `url` answers; this process is its owner where no other is.

    Raises EmbeddedError where there is no engine, or its owner does not answer in time.
    """
    if not (folder(url) / _LOCK_FILE).exists():
        raise EmbeddedError(f"there is no embedded ClickHouse in {folder(url)}: the audit worker makes it")
    deadline = time.monotonic() + timeout_s
    while True:
        # Between taking the lock and saying where it answers, an owner opens the engine: a second or two.
        if address := owner_url(url):
            yield address
            return
        try:
            engine = EmbeddedEngine(url).start(timeout_s=_POLL_S)
        except OwnedError:
            if time.monotonic() > deadline:
                raise
            continue
        with engine:
            yield engine.url
            return


def _lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class EmbeddedEngine:
    """The engine in this process, which owns its folder from `start` to `close`.

    A process can have one folder open at a time: that is chDB's limit.
    """

    def __init__(self, url: str) -> None:
        self.folder = folder(url)
        self.client: Any = None
        """clickhouse-connect's, on the engine itself; may write."""
        self.url = ""
        """Where others may read."""
        self._file: IO[bytes] | None = None
        self._server: ReadOnlyServer | None = None

    def start(self, *, timeout_s: float = 10.0) -> Self:
        """Take the folder, open the engine and answer others. Raises EmbeddedError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self._take(timeout_s)
        try:
            self.client = clickhouse_connect.get_client(
                interface="chdb", path=str(self.folder), tz_mode="aware", show_clickhouse_errors=True
            )
            self._serve()
        except ImportError as error:
            self.close()
            raise EmbeddedError(
                "the embedded engine is not installed: pip install 'omium-recovery[embedded]'"
            ) from error
        except BaseException:
            self.close()
            raise
        return self

    def _take(self, timeout_s: float) -> IO[bytes]:
        deadline = time.monotonic() + timeout_s
        file = os.fdopen(os.open(self.folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        # A command that reads without an owner holds the lock for a moment.
        while not _lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                file.close()
                raise OwnedError(f"another process owns the embedded ClickHouse in {self.folder}")
            time.sleep(_POLL_S)
        file.truncate(0)
        return file

    def _serve(self) -> None:
        from processors.audit.http import ReadOnlyServer  # needs chDB, which is an extra

        password = secrets.token_urlsafe(16)
        self._server = ReadOnlyServer(self.folder, password)
        self.url = f"http://reader:{password}@127.0.0.1:{self._server.server_port}/default"
        assert self._file is not None
        self._file.seek(0)
        self._file.write(orjson.dumps({"url": self.url, "pid": os.getpid()}))
        self._file.flush()

    def close(self) -> None:
        """Stop answering and let go of the folder; safe to call twice."""
        if self._server is not None:
            self._server.close(lambda: self.client.command("KILL QUERY WHERE query_id != queryID() ASYNC"))
        if self.client is not None:
            self.client.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()
        self._server = self.client = self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
