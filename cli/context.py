"""What every command shares: settings from the options, output, and exit codes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from ops.runtime.settings import Settings


class ExitCode(IntEnum):
    """What a script may rely on."""

    OK = 0
    FAILED = 1
    """It ran, and the answer is no: a check failed, a line was malformed, nothing was found."""
    USAGE = 2
    """The command or its settings are wrong; trying again will not help."""
    UNREACHABLE = 3
    """Kafka or ClickHouse did not answer; trying again may help."""


EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 it ran and the answer is no (a check failed, a line was malformed); "
    "2 wrong usage or settings; 3 Kafka or ClickHouse did not answer."
)
_PANEL: Final = "Where"
Bootstrap = Annotated[
    str | None,
    typer.Option(help="Kafka brokers, host:port[,host:port]. [env: OMIUM_BOOTSTRAP]", rich_help_panel=_PANEL),
]
ClickHouse = Annotated[
    str | None,
    typer.Option(
        "--clickhouse",
        help="http(s)://user:password@host:port/database, or chdb:///path; else OMIUM_CLICKHOUSE.",
        rich_help_panel=_PANEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON on stdout.")]


def settings(ctx: typer.Context, *, bootstrap: str | None = None, clickhouse: str | None = None) -> Settings:
    """Settings of this command; its own options win over the global ones, those over environment and files."""
    from pydantic import ValidationError

    from ops.runtime.settings import Settings

    chosen: dict[str, str] = dict(ctx.find_root().obj or {})
    chosen |= {k: v for k, v in (("bootstrap", bootstrap), ("clickhouse", clickhouse)) if v is not None}
    try:
        return Settings(**chosen)  # type: ignore[arg-type]  # pydantic-settings takes any field's text
    except ValidationError as error:
        # Never the input: it may be a password.
        problems = (f"OMIUM_{'.'.join(map(str, p['loc'])).upper()}: {p['msg']}" for p in error.errors())
        fail("; ".join(problems), ExitCode.USAGE)


def say(text: str) -> None:
    """Progress, for people: stderr."""
    print(text, file=sys.stderr, flush=True)


def put_json(value: Any) -> None:
    """Data, for programs: one JSON value on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def put_rows(rows: Sequence[Sequence[str]]) -> None:
    """Data, for people and for `cut`: aligned columns that no terminal's width cuts."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def fail(text: str, code: ExitCode) -> NoReturn:
    """End the command with a reason."""
    say(f"error: {text}")
    raise typer.Exit(code)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """What is foreseen becomes one line and its exit code; what is not keeps its traceback."""
    from confluent_kafka import KafkaError, KafkaException

    from ops.runtime.topics import TopicsError

    try:
        yield
    except KafkaException as error:
        cause = error.args[0]
        fail(f"Kafka: {cause.str() if isinstance(cause, KafkaError) else cause}", ExitCode.UNREACHABLE)
    except TopicsError as error:
        fail(str(error), ExitCode.FAILED)
    except BrokenPipeError:
        # `| head` has seen enough. Python would complain about it once more when it flushes stdout at the end.
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115, PTH123
        raise typer.Exit(ExitCode.OK) from None
