"""Agents whose tools fail: they call the services of `cli.demo.services` over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cli.demo.job import Ending, Job, Json, RunFailed, Work
from cli.demo.services import RATES
from cli.demo.tools import call

CAPABILITIES: Final = ("set_retry", "set_timeout", "run_async", "refresh_credentials", "use_fallback")


def _exchange(job: Job) -> Json:
    """Five rates, one call each: what was fetched before the limit stays in the checkpoint."""
    rates = job.state.setdefault("rates", {})
    for currency in RATES:
        if currency not in rates:
            rates[currency] = call(job, "rates", currency)["rate"]
    return rates


def _work(
    name: str,
    failing: str,
    step: Callable[[Job], Json],
    right: Json,
    cures: set[str],
    ends: Ending = "recovered",
) -> Work:
    return Work(
        name=name,
        agent=f"{name}-agent",
        failing=failing,
        run=lambda job: job.modifications.retrying(partial(step, job), on=RunFailed),
        right=lambda output: output == right,
        cures=frozenset(cures),
        capabilities=CAPABILITIES,
        ends=ends,
        step="call",
    )


def _call(service: str, path: str) -> Callable[[Job], Json]:
    return lambda job: call(job, service, path)


WORKS: Final = (
    _work("exchange", "429 with Retry-After", _exchange, RATES, {"set_retry"}),
    _work(
        "customer",
        "401: the token has expired",
        _call("crm", "C-1009"),
        {"customer": "C-1009", "since": 2011, "segment": "retail"},
        {"refresh_credentials"},
    ),
    _work(
        "score",
        "503 for good; a healthy twin stands by",
        _call("credit", "C-1009"),
        {"customer": "C-1009", "score": 712},
        {"use_fallback"},
    ),
    _work(
        "statement",
        "no answer in time; jobs can be submitted",
        _call("report", "2026-10"),
        {"pages": 12, "status": "done"},
        {"run_async"},
    ),
    _work("lookup", "no answer in time; no other way to ask", _call("search", "q"), {"hits": 3}, {"set_timeout"}),
    _work("address", "connections dropped by a restart", _call("geo", "PT"), {"country": "PT"}, {"set_retry"}),
    _work("embedding", "the account is out of credit", _call("embed", "text"), None, set(), ends="escalated"),
)
