"""ClickHouse's HTTP interface, as far as reading needs it, in front of the embedded engine."""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import chdb

_MAX_QUERY_BYTES: Final = 1024 * 1024
_MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024
_LIMITS: Final = {
    "max_execution_time": 60,
    "max_memory_usage": 2 * 1024**3,
    "max_result_bytes": 512 * 1024**2,
    # Last: from here on nothing can be written, and no setting changed. It also refuses file() and url().
    "readonly": 1,
}
_ERROR_CODE: Final = re.compile(r"Code: (\d+)")
_FORMAT: Final = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_UNKNOWN_ERROR: Final = "1000"
_PATIENCE_S: Final = 0.1


class ReadOnlyServer(ThreadingHTTPServer):
    """Answers queries on loopback until `close`. Each connection has a handle of its own on the engine."""

    daemon_threads = True

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self._folder = folder
        self._credentials = b"Basic " + base64.b64encode(f"reader:{password}".encode())
        self.connections: set[_Connection] = set()
        threading.Thread(target=self.serve_forever, name="clickhouse-http", daemon=True).start()

    def knows(self, credentials: str) -> bool:
        """Whether this Authorization header is the reader's."""
        return hmac.compare_digest(credentials.encode(), self._credentials)

    def engine(self) -> Any:
        """A new handle that can only read."""
        engine = chdb.connect(str(self._folder))
        for name, value in _LIMITS.items():
            engine.query(f"SET {name} = {value}")
        return engine

    def close(self, cancel: Callable[[], object]) -> None:
        """Stop answering; safe to call twice. `cancel` ends the queries that run."""
        self.shutdown()
        self.server_close()
        # chDB crashes the process where the engine is closed under an open handle.
        for connection in tuple(self.connections):
            while not connection.release(_PATIENCE_S):
                cancel()


class _Connection(BaseHTTPRequestHandler):
    server: ReadOnlyServer
    protocol_version = "HTTP/1.1"
    timeout = 120
    """Seconds that an idle connection, and with it its handle, is kept."""

    def setup(self) -> None:
        super().setup()
        self._lock = threading.Lock()
        self._engine: Any = None
        self._released = False
        self.server.connections.add(self)

    def finish(self) -> None:
        self.release()
        with contextlib.suppress(OSError):
            super().finish()

    def release(self, timeout_s: float = -1) -> bool:
        """Close the handle, and open none after that. False where its query still runs after the timeout."""
        if not self._lock.acquire(timeout=timeout_s):
            return False
        try:
            self._released = True
            if self._engine is not None:
                self._engine.close()
            self._engine = None
        finally:
            self._lock.release()
        self.server.connections.discard(self)
        return True

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > _MAX_QUERY_BYTES:
            self.close_connection = True
            self._discard(length)
            self._send(413, "Code: 164. DB::Exception: this is read-only, and a query has at most 1 MiB", code="164")
        else:
            self._answer(self.rfile.read(int(length)))

    def _discard(self, length: str) -> None:
        # A client that is still sending when the connection closes reads a broken pipe, and never the answer.
        left = min(int(length), _MAX_DISCARDED_BYTES) if length.isdecimal() else 0
        while left and (read := self.rfile.read(min(left, 65_536))):
            left -= len(read)

    def _answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        if url.path == "/ping":
            self._send(200, "Ok.\n")
        elif not self.server.knows(self.headers.get("Authorization", "")):
            self._send(401, "Code: 516. DB::Exception: wrong user or password", code="516")
        else:
            self._query(dict(parse_qsl(url.query, keep_blank_values=True)), body.decode(errors="replace"))

    def _query(self, parameters: dict[str, str], body: str) -> None:
        query = "\n".join(filter(None, (parameters.get("query"), body)))
        values = {k.removeprefix("param_"): v for k, v in parameters.items() if k.startswith("param_")}
        try:
            with self._lock:
                if self._released:
                    raise ConnectionAbortedError("Code: 210. DB::Exception: the engine is closing")
                self._engine = self._engine or self.server.engine()
                data, format_ = _run(self._engine, query, parameters.get("default_format", "TabSeparated"), values)
        except Exception as error:  # chDB raises RuntimeError and its own kind
            found = _ERROR_CODE.search(str(error))
            self._send(500, str(error), code=found[1] if found else _UNKNOWN_ERROR)
        else:
            self._send(200, data, format_=format_)

    def _send(self, status: int, body: bytes | str, *, format_: str = "", code: str = "") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (("X-ClickHouse-Format", format_), ("X-ClickHouse-Exception-Code", code)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Queries may quote what agents said."""


def _run(engine: Any, query: str, default_format: str, values: dict[str, str]) -> tuple[bytes, str]:
    """The answer and the name of its format."""
    if re.search("OUTFILE", query, re.IGNORECASE):
        # The engine takes the client's part here, and writes the file even where it is read-only.
        raise PermissionError("Code: 164. DB::Exception: INTO OUTFILE: this interface is read-only (READONLY)")
    named = _FORMAT.search(query)
    data: bytes = engine.query(query, default_format, params=values).bytes() or b""
    return data, named[1] if named else default_format
