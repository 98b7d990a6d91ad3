"""`omium-recovery`: signatures only. Each command imports what it runs when it runs, so `--help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.context import EXIT_CODES, Bootstrap, ClickHouse, Json, reported, settings
from cli.operate.commands import add_to

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
topics_app = typer.Typer(
    no_args_is_help=True, help="Create or list the Kafka topics by which agents and workers speak."
)
app.add_typer(topics_app, name="topics")

Worker = Literal["streams", "recover", "govern", "audit", "all"]
Execution = Annotated[str, typer.Argument(help="Execution id, or tenant_id/execution_id where ids repeat.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("omium-recovery"))
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    bootstrap: Bootstrap = None,
    clickhouse: ClickHouse = None,
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turns an AI agent's failure into a resumed run: detect, analyze, suggest, apply, retry, audit, learn.

    Settings come from the options, then OMIUM_ environment variables, then .env, then omium.toml.
    """
    ctx.obj = {k: v for k, v in (("bootstrap", bootstrap), ("clickhouse", clickhouse)) if v is not None}


@app.command()
def worker(
    ctx: typer.Context,
    name: Annotated[Worker, typer.Argument(help="all: the three others as supervised children.")],
    bootstrap: Bootstrap = None,
    clickhouse: ClickHouse = None,
    create_topics: Annotated[bool, typer.Option(help="Create missing topics; else only check them.")] = True,
) -> None:
    """Run one of the workers, or all of them, until SIGTERM or Ctrl-C."""
    from cli.worker import run, supervise

    chosen = settings(ctx, bootstrap=bootstrap, clickhouse=clickhouse)
    raise typer.Exit(
        supervise(chosen, create_topics=create_topics)
        if name == "all"
        else run(name, chosen, create_topics=create_topics)
    )


@topics_app.command("create")
def topics_create(ctx: typer.Context, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Create what is missing; fails where a topic has another number of partitions."""
    from cli.topics import create

    with reported():
        create(settings(ctx, bootstrap=bootstrap), as_json=as_json)


@topics_app.command("list")
def topics_list(ctx: typer.Context, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """Each topic of the contract and what the broker has of it."""
    from cli.topics import show

    with reported():
        show(settings(ctx, bootstrap=bootstrap), as_json=as_json)


@app.command()
def tail(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(help="Name, or a part of it that only one topic has: `commands`.")],
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="Start this many records back in each partition.")
    ] = 0,
    from_start: Annotated[bool, typer.Option("--from-start", help="Start at the oldest record.")] = False,
    follow: Annotated[bool, typer.Option(help="Wait for new records; --no-follow ends at the present end.")] = True,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Print the records of a Kafka topic, decoded; only what is committed."""
    from cli.tail import run

    with reported():
        run(
            settings(ctx, bootstrap=bootstrap), topic, last=None if from_start else last, follow=follow, as_json=as_json
        )


@app.command()
def doctor(
    ctx: typer.Context, bootstrap: Bootstrap = None, clickhouse: ClickHouse = None, as_json: Json = False
) -> None:
    """Check that the broker, its topics, the clocks and ClickHouse are there and agree."""
    from cli.doctor import run

    raise typer.Exit(run(settings(ctx, bootstrap=bootstrap, clickhouse=clickhouse), as_json=as_json))


@app.command()
def classify(ctx: typer.Context) -> None:
    """Classify failures: JSON lines on stdin, verdicts and ranked options as JSON lines on stdout. No broker needed.

    A malformed line is answered by {"line": ..., "error": ..., "reason": ...} in its place; the exit code is then 1.
    """
    from cli.classify import run

    with reported():
        raise typer.Exit(run(settings(ctx)))


@app.command()
def explain(ctx: typer.Context, execution: Execution, clickhouse: ClickHouse = None, as_json: Json = False) -> None:
    """Tell what became of an execution: what failed, why, the options, what was done, how it ended."""
    from cli import queries

    raise typer.Exit(queries.explain(settings(ctx, clickhouse=clickhouse), execution, as_json=as_json))


@app.command()
def history(ctx: typer.Context, execution: Execution, clickhouse: ClickHouse = None, as_json: Json = False) -> None:
    """List all failures of an execution, how each was answered, and how many were recovered."""
    from cli import queries

    raise typer.Exit(queries.history(settings(ctx, clickhouse=clickhouse), execution, as_json=as_json))


@app.command()
def sql(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="ClickHouse SQL; start with: SELECT * FROM recovery_audit LIMIT 5")],
    clickhouse: ClickHouse = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets: CSV with a header.")] = False,
) -> None:
    """Run a query on the audit database: a table on a terminal, tab separated into a pipe."""
    from cli import queries

    raise typer.Exit(queries.sql(settings(ctx, clickhouse=clickhouse), query, as_json=as_json, as_csv=as_csv))


@app.command()
def demo(
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Without Java: an in-process broker, which guarantees nothing.")
    ] = False,
) -> None:
    """Start a broker, the workers and a fleet of real agents that fail; ends by itself within two minutes."""
    from cli.demo.main import demo as run

    raise typer.Exit(run(in_memory=in_memory))


@app.command()
def up(
    data: Annotated[Path | None, typer.Option(help="Folder that keeps topics and audit; default: .demo/up.")] = None,
) -> None:
    """Start a broker, the workers and the embedded ClickHouse, and keep them running until Ctrl-C."""
    from cli.demo.main import up as run

    raise typer.Exit(run(data))


add_to(app)

if __name__ == "__main__":
    app()
