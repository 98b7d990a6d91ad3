"""A story as a page for people. Agents' text is shown as text: it can neither style the page nor steer the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.queries.story import Answer, Attempt, Failure, Recovery, Story

_LABEL_CHARS: Final = 9
_VALUE_CHARS: Final = 600
_STYLE: Final = {
    "success": "bold green",
    "succeeded": "green",
    "partial": "bold yellow",
    "failed": "bold red",
    "expired": "red",
    "open": "bold cyan",
}
_HELD: Final = "held: "
_PERSON: Final = "ask_human"
_NO_NEWS: Final = ("opened", "joined", "held")
_MAX_EVIDENCE: Final = 4
_ENDED: Final = {
    "succeeded": "succeeded",
    "failed": "failed again",
    "expired": "no word came by its deadline",
    "not_applied": "the runtime did not apply it",
    "open": "still open",
}


def show(story: Story, console: Console) -> None:
    """Print `story`."""
    for number, recovery in enumerate(story.recoveries, 1):
        if number > 1:
            console.print()
        _recovery(story, recovery, console)
    for failure in story.others:
        console.print()
        _failure(failure, "A failure that belongs to no recovery", console)
    for record in story.unreadable:
        _trouble(console, f"An unreadable record on {record['topic']}", record)
    for letter in story.dead_letters:
        _trouble(console, f"{letter['worker']} could not handle a record of {letter['topic']}", letter)


def _trouble(console: Console, title: str, record: dict[str, Any]) -> None:
    why = f"{record['reason']}{': ' if record.get('error') else ''}{record.get('error') or ''}"
    console.print()
    console.print(Text(f"{clean(title)}  {_clock(record['at'])}", style="bold red"))
    _lines(console, "Why", [Text(clean(why))])


def clean(value: Any) -> str:
    """`value` on one line, without characters that a terminal obeys, cut to what a person reads."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    shown = "".join(" " if c in "\n\r\t" else "�" if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)
    return shown if len(shown) <= _VALUE_CHARS else f"{shown[:_VALUE_CHARS]}… (--json shows all)"


def seconds(value: float | None) -> str:
    """A duration as people say it."""
    if value is None:
        return "?"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def dollars(microusd: int) -> str:
    """An amount, never rounded to nothing."""
    return f"${microusd / 1e6:.6f}".rstrip("0").rstrip(".") if microusd else "$0"


def _clock(at: datetime | None) -> str:
    return "?" if at is None else f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"


def _recovery(story: Story, recovery: Recovery, console: Console) -> None:
    title = Text(clean(f"{story.tenant_id}/{story.execution_id}"), style="bold")
    title.append(": ")
    title.append(_sentence(recovery), style=_STYLE.get(recovery.status, ""))
    console.print(title)
    console.print(Text(f"recovery {clean(recovery.recovery_id)}", style="dim"))
    for number, failure in enumerate(recovery.failures, 1):
        console.print()
        _failure(failure, f"Failure {number}", console)
    if recovery.escalation:
        console.print()
        _lines(console, "A person", [Text(clean(recovery.escalation), style="yellow"), *map(_answer, recovery.answers)])


def _answer(answer: Answer) -> Text:
    said = f"{_clock(answer.at)}  {answer.operator} said {answer.action} {answer.strategy}".rstrip()
    why = f" ({answer.reason})" if answer.reason else ""
    return Text(clean(f"{said}{why}: {answer.became or 'not heard yet'}"))


def _sentence(recovery: Recovery) -> str:
    attempts = "one attempt" if recovery.attempts == 1 else f"{recovery.attempts or 'no'} attempts"
    used = f"{seconds(recovery.duration_s)}, {attempts}, {dollars(recovery.cost_microusd)}"
    match recovery.status:
        case "success":
            return f"recovered in {used}"
        case "open":
            return f"not ended yet, {attempts}"
        case _ if recovery.reason == "not_a_failure":
            return "no failure: nothing to recover"
        case _:
            why = clean(f"{recovery.reason.replace('_', ' ')}{f': {recovery.error}' if recovery.error else ''}")
            return f"not recovered ({why}) after {used}"


def _failure(failure: Failure, title: str, console: Console) -> None:
    who = f"{failure.agent or 'an agent'}{f', step {failure.step}' if failure.step else ''}"
    console.print(Text.assemble((title, "bold"), f"  {_clock(failure.detected_at)}  ", (clean(who), "cyan")))
    _lines(console, "What", [Text(clean(failure.error or "the agent gave no message"))])
    _lines(console, "Why", list(_verdict(failure.verdict)))
    _lines(
        console, "Held", [Text(clean(word[len(_HELD) :])) for word in failure.dispositions if word.startswith(_HELD)]
    )
    if failure.attempts:
        for attempt in failure.attempts:
            _lines(console, "Options", [_candidates(attempt)])
            _lines(console, "Done", list(_done(attempt)))
            _lines(console, "Ended", list(_ended(attempt)))
        return
    if failure.options:
        _lines(console, "Options", [_options(failure.options)])
    if failure.answered_by:
        _lines(console, "Done", [Text(f"answered by attempt {failure.answered_by} of this recovery")])
    else:
        said = [word for word in failure.dispositions if word not in _NO_NEWS and not word.startswith(_HELD)]
        _lines(console, "Done", [Text(clean(f"no command: {'; '.join(said)}") if said else "nothing yet")])


def _verdict(verdict: dict[str, Any] | None) -> Iterator[Text]:
    if verdict is None:
        yield Text("no verdict yet", style="dim")
        return
    name = f"{verdict.get('category')} / {verdict.get('subtype')}"
    rule = f", rule {clean(verdict['rule'])}" if verdict.get("rule") else ""
    sure = f"{verdict.get('confidence') or 0:.0%} sure"
    yield Text.assemble((clean(name), "bold"), f", severity {verdict.get('severity')}, {sure}{rule}")
    if verdict.get("explanation"):
        yield Text(clean(verdict["explanation"]))
    seen = dict.fromkeys(f"{e.get('path')}: {e.get('text')}" for e in verdict.get("evidence") or [])
    for evidence in list(seen)[:_MAX_EVIDENCE]:
        yield Text(clean(f"seen: {evidence}"), style="dim")
    if verdict.get("counterfactual"):
        yield Text(clean(f"otherwise: {verdict['counterfactual']}"), style="dim")


def _candidates(attempt: Attempt) -> Table:
    table = Table.grid(padding=(0, 2))
    for place, option in enumerate(attempt.candidates):
        chosen = place == attempt.chosen
        mark, style = ("▶", "bold") if chosen else ("·", "" if option.get("eligible") else "dim")
        table.add_row(*_cells(mark, option), style=style)
    return table


def _options(options: Sequence[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for option in options:
        table.add_row(*_cells("·", option))
    return table


def _cells(mark: str, option: dict[str, Any]) -> tuple[Text, ...]:
    samples = option.get("samples") or 0
    if samples and option.get("confidence") != option.get("prior"):
        basis = f"learned from {samples} attempts"
    else:
        basis = f"as published, tried {samples}x" if samples else "as published"
    rate = f"{option.get('confidence') or 0:.0%} {basis}" if option.get("strategy") != _PERSON else "a person decides"
    forbidden = "" if option.get("eligible", True) else "not allowed: "
    return (
        Text(f"{mark} {clean(option.get('strategy') or '?')}"),
        Text(rate),
        Text(dollars(option.get("cost_microusd") or 0)),
        Text(clean(f"{forbidden}{option.get('why') or ''}")),
    )


def _done(attempt: Attempt) -> Iterator[Text]:
    yield Text.assemble(
        f"attempt {attempt.attempt}: ",
        (clean(attempt.strategy), "bold"),
        clean(f", {seconds(attempt.latency_s)} after the failure, from checkpoint {attempt.checkpoint_id}"),
        clean(f", decided by {attempt.operator}") if attempt.operator else "",
    )
    for change in attempt.modifications:
        yield Text(clean(f"{change.get('kind')}: {_parameters(change.get('parameters'))}"))


def _parameters(parameters: Any) -> str:
    if not isinstance(parameters, dict):
        return clean(parameters)
    if set(parameters) == {"text"}:
        return clean(parameters["text"])
    return ", ".join(f"{name}={clean(value)}" for name, value in parameters.items() if value not in (None, "", [], {}))


def _ended(attempt: Attempt) -> Iterator[Text]:
    line = Text(_ENDED.get(attempt.status, clean(attempt.status)), style=_STYLE.get(attempt.status, ""))
    if attempt.status != "open":
        line.append(f" after {seconds(attempt.duration_s)}, {dollars(attempt.cost_microusd)}", style="default")
    if attempt.retry_count:
        repeats = "one repeat" if attempt.retry_count == 1 else f"{attempt.retry_count} repeats"
        line.append(f", {repeats} inside the attempt", style="default")
    yield line
    if attempt.not_applied_why:
        yield Text(clean(f"not applied: {attempt.not_applied_why}"))
    if attempt.final_output is not None:
        yield Text(clean(f"output: {clean(attempt.final_output)}"))


def _lines(console: Console, label: str, lines: Sequence[Text | Table]) -> None:
    for number, line in enumerate(lines):
        table = Table.grid(padding=(0, 1))
        table.add_column(min_width=_LABEL_CHARS, max_width=_LABEL_CHARS)
        table.add_column()
        table.add_row(Text(label if number == 0 else "", style="dim"), line)
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
