"""`explain`, `history` and `sql`: what the audit database knows. stdout is data, stderr is progress."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.context import ExitCode, fail, put_json, say
from cli.queries.page import clean, show
from cli.queries.story import Fact, tell
from ops.runtime.settings import Settings
from processors.audit.store import UNAVAILABLE, reader
from schemas.records import parse_json_text

_PIPED_CHARS: Final = 160
_FACTS: Final = """
SELECT kind, topic, partition, offset, appended_at, failure_id, recovery_id, command_id, attempt, status, reason, body
FROM v_events
WHERE tenant_id = {tenant:String} AND execution_id = {execution:String}
ORDER BY appended_at, topic, partition, offset
LIMIT 10000
"""
_SUCCESS: Final = {True: Text("yes", style="green"), False: Text("no", style="red"), None: Text("open", style="cyan")}
_TENANTS: Final = """
SELECT DISTINCT tenant_id, execution_id FROM audit_events
WHERE execution_id = {whole:String}
   OR tenant_id = {tenant:String} AND execution_id = {execution:String}
ORDER BY tenant_id LIMIT 20
"""


def explain(settings: Settings, execution: str, *, as_json: bool = False) -> ExitCode:
    """Tell what failed, why we think so, the options with their reasons, what was done, how it ended."""
    with _database(settings) as client:
        if (found := _resolve(client, execution)) is None:
            say(f"nothing is known of {execution}")
            return ExitCode.FAILED
        tenant_id, execution_id = found
        rows = client.query(_FACTS, parameters={"tenant": tenant_id, "execution": execution_id}).result_rows
    story = tell(tenant_id, execution_id, map(_fact, rows))
    if as_json:
        put_json(asdict(story))
        return ExitCode.OK
    if not (story.recoveries or story.others or story.unreadable or story.dead_letters):
        say(f"no failure of {tenant_id}/{execution_id} is known")
        return ExitCode.OK
    show(story, _console())
    return ExitCode.OK


def history(settings: Settings, execution: str, *, as_json: bool = False) -> ExitCode:
    """All failures of one execution, how each was recovered, and the success rate; zeros where there are none."""
    with _database(settings) as client:
        found = _resolve(client, execution)
        tenant_id, execution_id = found or ("", execution)
        query = "SELECT * FROM recovery_history(tenant_id={tenant:String}, execution_id={execution:String})"
        answer = client.raw_query(query, parameters={"tenant": tenant_id, "execution": execution_id}, fmt="JSONEachRow")
    document = orjson.loads(answer)
    if found is None:
        say(f"nothing is known of {execution}")
    if as_json:
        put_json(document)
    else:
        _show_history(document)
    return ExitCode.OK if found else ExitCode.FAILED


def sql(settings: Settings, query: str, *, as_json: bool = False, as_csv: bool = False) -> ExitCode:
    """Print the answer to a query: a table on a terminal, tab separated into a pipe; its own FORMAT clause wins."""
    form = "JSONEachRow" if as_json else "CSVWithNames" if as_csv else None
    form = form or ("PrettyCompactMonoBlock" if sys.stdout.isatty() else "TabSeparatedWithNames")
    text = query.strip().rstrip(";")
    with _database(settings) as client:
        stream = client.raw_stream(text, fmt=None if _has_format(text) else form)
        shutil.copyfileobj(stream, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return ExitCode.OK


def _has_format(query: str) -> bool:
    words = query.upper().split()
    return len(words) > 1 and words[-2] == "FORMAT"


@contextlib.contextmanager
def _database(settings: Settings) -> Iterator[Any]:
    try:
        with reader(settings.clickhouse) as client:
            yield client
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115, PTH123  Python complains once more at its end
    except UNAVAILABLE as error:
        if "DB::Exception" in str(error):
            fail(clean(str(error)), ExitCode.USAGE)
        fail(f"ClickHouse: {clean(_root_cause(error))}", ExitCode.UNREACHABLE)


def _root_cause(error: BaseException) -> str:
    # The client's own message repeats the whole request.
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error)


def _resolve(client: Any, execution: str) -> tuple[str, str] | None:
    """tenant_id and execution_id of `execution`, which may name both; None where nothing is known of it."""
    tenant, _, rest = execution.partition("/")
    names = {"whole": execution, "tenant": tenant, "execution": rest}
    found = [tuple(row) for row in client.query(_TENANTS, parameters=names).result_rows]
    if rest and (tenant, rest) in found:
        return tenant, rest
    if len(found) > 1:
        fail(f"several tenants have it: {', '.join(f'{t}/{e}' for t, e in found)}", ExitCode.USAGE)
    return (found[0][0], found[0][1]) if found else None


def _fact(row: Sequence[Any]) -> Fact:
    kind, topic, partition, offset, at, failure_id, recovery_id, command_id, attempt, status, reason, body = row
    document = parse_json_text(body)
    return Fact(
        kind=kind,
        topic=topic,
        partition=partition,
        offset=offset,
        at=at,
        failure_id=failure_id,
        recovery_id=recovery_id,
        command_id=command_id,
        attempt=attempt,
        status=status,
        reason=reason,
        body=document if isinstance(document, dict) else {},
    )


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPED_CHARS)


def _show_history(document: dict[str, Any]) -> None:
    console = _console()
    total, ended = document["total_failures"], sum(event["success"] is not None for event in document["events"])
    said = f"{clean(document['execution_id'])}: {total} failure{'' if total == 1 else 's'}"
    if ended:
        said += f", {document['recovery_success_rate']:.0%} of {ended} recovered"
    if ended < total:
        said += f", {total - ended} still open"
    console.print(Text(said))
    if not document["events"]:
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for name in ("time (UTC)", "failure type", "strategy", "success"):
        table.add_column(name, header_style="dim")
    for event in document["events"]:
        strategy = event["recovery_strategy"] or "none"
        success = _SUCCESS[event["success"]]
        table.add_row(clean(event["time"]), clean(event["failure_type"]), clean(strategy), success)
    console.print(table)
