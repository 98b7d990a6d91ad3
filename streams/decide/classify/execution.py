"""Whether the failed call may have had its effect, whether the fault lasts, and whether a person stopped the run."""

from __future__ import annotations

from typing import Final

import re2

from schemas.records import FailureEvent
from streams.decide.classify.evidence import Level, levels

_READ_CHARS: Final = 768
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


_LASTING: Final = re2.compile(
    r"(?i)certificate|\bcert_|_cert\b|err_cert|self.signed|\bx509|pkix path|wrong.version.number|unknown protocol|"
    r"unsupported protocol|hostname.{0,20}(mismatch|doesn.t match)|err_ssl_(version|protocol)|"
    r"http response to https|unknown ca\b|look like a tls|legacy renegotiation|no (shared|common|protocols?|cipher)|"
    r"unsupported_cert|unable_to_(verify|get)|depth_zero|ssl_error_(rx_record|no_c|unsupported|bad)|sec_error_|"
    r"(alert|handshake).{0,24}(protocol version|bad certificate|inappropriate|insufficient security)|"
    r"plain (text )?http|packet length too long|record overflow|ssl_version_or_cipher|"
    r"(enotfound|eai_again|resolve|getaddrinfo|connect to|https?:/)[^\n]{0,48}[./@ ](undefined|null|none|nan)[.:/]"
)
_FULL: Final = (
    "no space left",
    "enospc",
    "disk full",
    "disk is full",
    "errno 28",
    "diskfull",
    "disk_full",
    "insufficient storage",
)
_DONE_ALREADY: Final = re2.compile(
    r"(?i)already|duplicate|unique|eexist|e11000|\b23505\b|file exists|entity exists|same parameters|"
    r"non-?fast-?forward|fetch first|merge conflict|precondition|not empty|only one value|"
    r"invalidupdate|nondetermin|not_?cancell?able"
)
_PASSING: Final = re2.compile(r"(?i)in[- ]progress|running|in use|locked|try again|retry|serializ|deadlock|concurrent")
_PERSON: Final = re2.compile(
    r"(?i)\b(user|person|human|operator|admin|client|caller|approv\w*|confirm\w*|feedback|review\w*)\b"
)


def lasting(event: FailureEvent, subtype: str) -> bool:
    """True where no wait removes the reason: what is wrong with a certificate stays wrong, what is there already is."""
    if subtype == "network_error":
        return any(_LASTING.search(_of(level)) for level in levels(event))
    if subtype == "state_conflict":
        shown = " ".join(_of(level) for level in levels(event))
        return _DONE_ALREADY.search(shown) is not None and _PASSING.search(shown) is None
    return False


def full(said: str) -> bool:
    """Whether words or a code say that a disk is full: nobody but a person empties it."""
    shown = said[-_READ_CHARS:].lower()
    return any(words in shown for words in _FULL)


def by_a_person(event: FailureEvent, text: str) -> bool:
    """Whether the words about the end of a run speak of a person."""
    said = (event.error.message or "") if event.error is not None else ""
    return _PERSON.search(f"{text[:1_024]} {said[:1_024]}") is not None


def _of(level: Level) -> str:
    """What a layer shows of its connection: its names, and the head and the tail of its words."""
    text = level.text
    if len(text) > 2 * _READ_CHARS:
        text = f"{text[:_READ_CHARS]}\n{text[-_READ_CHARS:]}"
    return " ".join((level.class_name or "", *level.codes, text))
