"""Whether the failed call may have had its effect: decides whether it may simply be made again."""

from __future__ import annotations

from typing import Any, Final

import re2

from schemas.records import FailureEvent
from streams.decide.classify.evidence import levels

_MAY_HAVE: Final = frozenset({"service_unavailable", "bad_response", "retries_exhausted", "unknown"})
_NEVER_CONNECTED: Final = re2.compile(
    r"(?i)refused|name resolution|getaddrinfo|not known|resolve|enotfound|eai_again|no route to host|unreachable|"
    r"certificate|\bssl|\btls|handshake|err_name|err_cert|connect ?timeout|connect timed out|"
    r"connection attempts failed|connecterror|newconnection|clientconnector|could not connect|cannot connect|"
    r"unable to connect|failed to (connect|establish)|connect call failed|no such host"
)


def may_have_executed(event: FailureEvent, subtype: str) -> bool:
    """False only where the evidence shows that the service did not act: it refused the call, or was never reached."""
    if subtype in ("timeout", "network_error"):
        return not any(_NEVER_CONNECTED.search(_of(level)) for level in levels(event))
    return subtype in _MAY_HAVE


def _of(level: Any) -> str:
    return " ".join((level.class_name or "", *level.codes, level.text[:2_048]))
