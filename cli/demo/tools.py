"""How the demo's agents call a service: real HTTP, and what a resume command may change about a call."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from dataclasses import dataclass
from typing import Any, Final

from omium.modifications import Polling

from cli.demo.job import Job, Json, RunFailed

TIMEOUT_S: Final = 0.5
FALLBACKS: Final = {"credit": ("bureau",)}
"""As the agents' tools are registered: what can stand in for a service."""
SUPPORTS_ASYNC: Final = frozenset({"report"})


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: dict[str, str]
    body: Json


def call(job: Job, service: str, path: str) -> Json:
    """The body of the service's answer. Raises RunFailed where it gives none."""
    asked = job.modifications
    service = asked.service(service)
    if asked.stale_credentials() == service:
        job.token = _request(job, "POST", "auth", "token").body["access_token"]
    if (polling := asked.polling()) is not None:
        return _submit_and_poll(job, service, polling)
    return _checked(job, "GET", service, path).body


def _submit_and_poll(job: Job, service: str, polling: Polling) -> Json:
    response = _checked(job, "POST", service, "jobs")
    for _ in range(polling.max_polls):
        if response.status != 202:
            return response.body
        # The service may know better than we how long it needs.
        asked_s = float(response.headers.get("retry-after", polling.poll_interval_s))
        time.sleep(min(asked_s, polling.poll_interval_s))
        response = _checked(job, "GET", service, f"jobs/{response.body['job']}")
    raise RunFailed(f"{service}: no result after {polling.max_polls} polls", origin="tool", protocol="http")


def _checked(job: Job, method: str, service: str, path: str) -> _Response:
    try:
        response = _request(job, method, service, path)
    except (OSError, http.client.HTTPException) as error:
        text = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            text = f"Connection timeout after {job.modifications.timeout_s(TIMEOUT_S):g}s"
        raise _failed(job, service, path, text) from error
    if response.status >= 400:
        told = response.body.get("error", "")
        text = told.get("message", "") if isinstance(told, dict) else str(told)
        raise _failed(job, service, path, text, response)
    return response


def _request(job: Job, method: str, service: str, path: str) -> _Response:
    timeout_s = job.modifications.timeout_s(TIMEOUT_S)
    connection = http.client.HTTPConnection("127.0.0.1", job.services_port, timeout=timeout_s)
    try:
        headers = {"X-Run": job.execution_id, "Authorization": f"Bearer {job.token}"}
        connection.request(method, f"/{service}/{path}", headers=headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        return _Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)
    finally:
        connection.close()


def _failed(job: Job, service: str, path: str, text: str, response: _Response | None = None) -> RunFailed:
    told: dict[str, Any] = {
        "tool": service,
        "error": text,
        "call_fingerprint": hashlib.sha256(f"{service}/{path}".encode()).hexdigest()[:16],
        "supports_async": service in SUPPORTS_ASYNC,
        "fallbacks": list(FALLBACKS.get(service, ())),
    }
    if response is not None:
        told |= {"status_code": response.status, "headers": response.headers, "body": response.body}
    return RunFailed(
        f"{service}: HTTP {response.status}: {text}" if response else f"{service}: {text}",
        origin="tool",
        protocol="http",
        tool_response=told,
        execution={"timeout_s": job.modifications.timeout_s(TIMEOUT_S), "sdk_retries": 0},
        side_effects="none",
    )
