"""The services that the demo's agents call: real HTTP on loopback, each with one real way to fail.

Each run (header `X-Run`) meets a service of its own, so that agents do not disturb each other and every
failure can be told in advance. Nothing here knows what an agent was told to do about a failure.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the services misbehave, in seconds. Tests of what must not help make these long."""

    rate_window_s: int = 1
    """Whole seconds, as in the header Retry-After."""
    outage_s: float = 0.8
    """The connection-dropping service is back so long after the first call."""
    report_s: float = 1.2
    """A report takes so long, whether one waits for it or polls."""
    search_s: float = 0.7


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. Status 0: the connection is dropped without one."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Meeting:
    """What one service remembers of one run."""

    first_s: float
    calls: int = 0
    job_done_s: float | None = None
    tokens: int = 0
    """How many tokens were issued in the run; the newest is valid."""


@dataclass(frozen=True, slots=True)
class _Call:
    timing: Timing
    meeting: _Meeting
    path: str
    """Below the service's own."""
    authorization: str


Service = Callable[[_Call], Answer]
RATES: Final = {"EUR": 1.0, "USD": 1.08, "GBP": 0.86, "JPY": 162.0, "CHF": 0.95}
CALLS_PER_WINDOW: Final = 3


class Services:
    """All services behind one port. A context manager."""

    def __init__(self, timing: Timing = Timing()) -> None:
        self.timing = timing
        self._meetings: dict[tuple[str, str], _Meeting] = {}
        self._lock = threading.Lock()
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                services._serve(self)

            def do_POST(self) -> None:
                services._serve(self)

            def log_message(self, *args: object) -> None:
                """The agents tell what they met."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="services", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        name, _, path = handler.path.lstrip("/").partition("/")
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        service = SERVICES.get(name)
        if service is None:
            answer = Answer(404, {"error": f"no service called {name}"})
        else:
            meeting = self._meet(name, handler.headers.get("X-Run", ""))
            answer = service(_Call(self.timing, meeting, path, handler.headers.get("Authorization", "")))
        if answer.status == 0:
            handler.close_connection = True
            return
        body = json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        for key, value in {**answer.headers, "Content-Type": "application/json"}.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except OSError:
            handler.close_connection = True  # the caller gave up waiting

    def _meet(self, service: str, run: str) -> _Meeting:
        # The authority and the service that takes its tokens share what they remember.
        group = "crm" if service == "auth" else service
        with self._lock:
            meeting = self._meetings.setdefault((group, run), _Meeting(time.monotonic()))
            meeting.calls += 1
            return meeting


def _rates(call: _Call) -> Answer:
    """Three calls a window; the next is refused until the window is over."""
    window_s = call.timing.rate_window_s
    now = time.monotonic()
    if now - call.meeting.first_s >= window_s:
        call.meeting.first_s, call.meeting.calls = now, 1
    if call.meeting.calls > CALLS_PER_WINDOW:
        message = f"Rate limit reached: {CALLS_PER_WINDOW} requests per {window_s} s"
        return Answer(429, {"error": {"type": "rate_limit", "message": message}}, {"Retry-After": str(window_s)})
    return Answer(200, {"currency": call.path, "rate": RATES.get(call.path, 0.0)})


def _crm(call: _Call) -> Answer:
    """Takes the newest token only. The one that agents start with has expired."""
    if call.authorization != f"Bearer token-{call.meeting.tokens}":
        problem = 'Bearer error="invalid_token", error_description="The access token expired"'
        return Answer(401, {"error": "token expired"}, {"WWW-Authenticate": problem})
    return Answer(200, {"customer": call.path, "since": 2011, "segment": "retail"})


def _auth(call: _Call) -> Answer:
    """Issues a new token."""
    call.meeting.tokens += 1
    return Answer(200, {"access_token": f"token-{call.meeting.tokens}"})


def _bureau(call: _Call) -> Answer:
    """The healthy twin of `credit`, which is down for good."""
    return Answer(200, {"customer": call.path, "score": 712})


def _report(call: _Call) -> Answer:
    """Slow; a job can be submitted (`/report/jobs`) and asked for (`/report/jobs/1`)."""
    done = Answer(200, {"pages": 12, "status": "done"})
    if not call.path.startswith("jobs"):
        time.sleep(call.timing.report_s)
        return done
    if call.path == "jobs" or call.meeting.job_done_s is None:
        call.meeting.job_done_s = time.monotonic() + call.timing.report_s
        return Answer(202, {"job": "1", "status": "running"}, {"Retry-After": "1"})
    if time.monotonic() < call.meeting.job_done_s:
        return Answer(202, {"job": "1", "status": "running"}, {"Retry-After": "1"})
    return done


def _search(call: _Call) -> Answer:
    """Slow, and no other way to ask."""
    time.sleep(call.timing.search_s)
    return Answer(200, {"hits": 3})


def _geo(call: _Call) -> Answer:
    """Restarting: drops every connection until it is back."""
    if time.monotonic() - call.meeting.first_s < call.timing.outage_s:
        return Answer(0, {})
    return Answer(200, {"country": "PT"})


_DOWN: Final = Answer(503, {"error": "Service Unavailable: bureau is down for maintenance"})
_QUOTA: Final = Answer(
    429,
    {
        "error": {
            "type": "insufficient_quota",
            "code": "insufficient_quota",
            "message": "You exceeded your current quota, please check your plan and billing details.",
        }
    },
)
SERVICES: Final[dict[str, Service]] = {
    "rates": _rates,
    "crm": _crm,
    "auth": _auth,
    "credit": lambda _: _DOWN,
    "bureau": _bureau,
    "report": _report,
    "search": _search,
    "geo": _geo,
    "embed": lambda _: _QUOTA,
}
