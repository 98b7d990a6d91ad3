"""HTTP endpoints of a worker: /metrics, /healthz (the process lives) and /readyz (it does its work)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Readiness = Callable[[], str | None]
"""None where the worker is ready, else why it is not. Called from the server's thread; must not block."""


class HealthServer:
    """Serves until `close`. Never asks Kafka: a broker that is gone must not get the worker restarted."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, body = server._answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Scrapes are not worth a line each."""

        self._readiness = readiness
        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        if path == "/healthz":
            return 200, "text/plain", b"ok\n"
        if path == "/readyz":
            why_not = self._readiness()
            return (503, "text/plain", f"{why_not}\n".encode()) if why_not else (200, "text/plain", b"ready\n")
        return 404, "text/plain", b"not found\n"

    def close(self) -> None:
        """Stop serving; safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
