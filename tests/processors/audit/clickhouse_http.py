"""A ClickHouse server to start, stop and let fail: the real engine of this process behind its HTTP interface."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import lz4.frame

from processors.audit.migrate import migrate

_INSERT = re.compile(rb"INSERT INTO (\S+) \(([^)]*)\) FORMAT Native\n")


class ClickHouse:
    """Serves database `name` of the engine behind `client` at a port that stays the same over restarts."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name
        self._server: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.inserts = 0
        self.drop_answers = 0
        """So many inserts are carried out, and never answered."""
        self.may_insert = threading.Event()
        self.may_insert.set()
        self.hanging = threading.Event()
        """An insert has come, and may not."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        client.command(f"CREATE DATABASE {name}")
        with self._lock:
            client.command(f"USE {name}")
            migrate(client)
            client.command("USE default")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self._name}"

    def query(self, sql: str) -> list[dict[str, Any]]:
        with self._lock:
            self._client.command(f"USE {self._name}")
            try:
                return list(self._client.query(sql).named_results())
            finally:
                self._client.command("USE default")

    def execute(self, sql: str) -> None:
        with self._lock:
            self._client.command(f"USE {self._name}")
            self._client.command(sql)
            self._client.command("USE default")

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server._open.add(self.connection)

            def finish(self) -> None:
                server._open.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                body = self._body()
                parameters = dict(parse_qsl(urlsplit(self.path).query))
                try:
                    status, answer = 200, server._answer(body, parameters)
                except Exception as error:
                    status, answer = 500, str(error).encode()
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("X-ClickHouse-Format", "Native")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def _body(self) -> bytes:
                body = self._received()
                return lz4.frame.decompress(body) if self.headers.get("Content-Encoding") == "lz4" else body

            def _received(self) -> bytes:
                if "Content-Length" in self.headers:
                    return self.rfile.read(int(self.headers["Content-Length"]))
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _answer(self, body: bytes, parameters: dict[str, str]) -> bytes | None:
        if body.startswith(b"INSERT INTO") and not self.may_insert.is_set():
            self.hanging.set()
            self.may_insert.wait()
        with self._lock:
            self._client.command(f"USE {self._name}")
            try:
                if insert := _INSERT.match(body):
                    columns = [c.strip("` ") for c in insert[2].decode().split(",")]
                    table = insert[1].decode().strip("`")
                    self._client.raw_insert(table, columns, body[insert.end() :], fmt="Native")
                    self.inserts += table == "audit_events"
                    if table == "audit_events" and self.drop_answers:
                        self.drop_answers -= 1
                        return None
                    return b""
                values = {k.removeprefix("param_"): v for k, v in parameters.items() if k.startswith("param_")}
                sql = body.decode()
                answer: bytes = self._client.raw_query(sql, parameters=values)
                return answer
            finally:
                self._client.command("USE default")

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in tuple(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server = None
