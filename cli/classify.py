"""`omium-recovery classify`: the verdict and the ranked options of failures on stdin, without a broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import BinaryIO, Final

import orjson

from cli.context import ExitCode, put_json
from ops.runtime.settings import Settings
from schemas.codec import Malformed, decode, to_json
from schemas.records import FailureEvent, Origin
from schemas.topics import FAILURES
from streams.decide import Rates, decide
from streams.decide.catalogue import load
from streams.decide.classify import load_rules

_CHUNK: Final = 64 * 1024
_MAX_WARNED: Final = 10
_FIELDS: Final = tuple(FailureEvent.model_fields)


def run(settings: Settings) -> ExitCode:
    """One line out for each line in that is not blank. FAILED where one of them was no failure."""
    try:
        catalogue = load(settings.catalogue_file)
        rules = load_rules(*([settings.rules_file] if settings.rules_file else []))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.FAILED
    code = ExitCode.OK
    for number, line in _lines(sys.stdin.buffer):
        decoded = decode(FAILURES.name, line)
        if isinstance(decoded, Malformed):
            put_json({"line": number, "reason": decoded.reason, "error": decoded.error})
            code = ExitCode.FAILED
            continue
        _warn_of_unknown_fields(number, line)
        event = decoded.record
        assert isinstance(event, FailureEvent)
        origin = Origin(partition=0, offset=number - 1)
        options = decide(
            event,
            failure_id=event.identity(origin.partition, origin.offset),
            origin=origin,
            rates=Rates(),
            catalogue=catalogue,
            rules=rules,
            now=datetime.now(UTC),
        )
        sys.stdout.write(to_json(options).decode() + "\n")
        sys.stdout.flush()
    return code


def _warn_of_unknown_fields(number: int, line: bytes) -> None:
    """The wire ignores fields that it does not know, as newer clients may send; a person at a prompt misspelt them."""
    if line.startswith(b"\xc3\x01"):
        return
    unknown = [name for name in orjson.loads(line) if name not in _FIELDS]
    for name in unknown[:_MAX_WARNED]:
        close = get_close_matches(name[:64].lower(), _FIELDS, n=1)
        meant = f", perhaps {close[0]!r} was meant" if close else ""
        sys.stderr.write(f"line {number}: field {name[:64]!r} is not known and was ignored{meant}\n")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and content of each line; of one that no topic would take, only the first part is kept."""
    limit = FAILURES.max_message_bytes + 1
    number = 0
    while line := stream.readline(limit):
        number += 1
        part = line
        while not part.endswith(b"\n") and (part := stream.readline(_CHUNK)):
            pass
        if content := line.strip():
            yield number, content
