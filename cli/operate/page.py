"""An escalation as a page for the person who must decide."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from cli.queries.page import clean, dollars
from schemas.records import Escalation, Modification, OperatorAction, PauseScope, Proposal, Strategy, parse_json_text

_PIPED_CHARS: Final = 160


def console(*, stderr: bool = False) -> Console:
    found = Console(highlight=False, soft_wrap=True, stderr=stderr)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, stderr=stderr, width=_PIPED_CHARS)


def show(question: Escalation, answer: OperatorAction | None, now: datetime, to: Console) -> None:
    """Print the question, every answer, and what each would send; or who has answered it, whatever became of that."""
    title = Text(clean(f"{question.tenant_id}/{question.execution_id}"), style="bold")
    title.append(f"  recovery {clean(question.recovery_id)}  attempt {question.attempt}", style="dim")
    to.print(title)
    if answer is not None:
        said = f"{answer.operator} said {answer.kind} at {answer.issued_at:%H:%M:%S} UTC"
        return to.print(Text(clean(f"  {'answered'.ljust(10)}{said}"), style="yellow"))
    for label, text in _facts(question, now):
        to.print(Text.assemble(("  " + label.ljust(10), "dim"), clean(text)))
    for number, proposal in enumerate(question.proposals, 1):
        to.print(_heading(number, proposal))
        for change in proposal.modifications:
            to.print(Text(f"             {_change(change)}", style="dim"))
    return to.print()


def _facts(question: Escalation, now: datetime) -> list[tuple[str, str]]:
    verdict, checkpoint = question.classification, question.checkpoint
    facts = [("asked", question.summary)]
    if verdict:
        why = verdict.explanation or verdict.details
        facts.append(("verdict", f"{verdict.category} / {verdict.subtype}, severity {verdict.severity}: {why}"))
    if checkpoint:
        facts.append(("from", f"checkpoint {checkpoint.id}"))
    if question.unsafe_effects:
        facts.append(("unsafe", "running again repeats an effect that must not be repeated, says the run"))
    if question.expires_at:
        left = max(0, round((question.expires_at - now).total_seconds()))
        facts.append(("until", f"{question.expires_at:%Y-%m-%d %H:%M:%S} UTC, {left // 60} min {left % 60} s left"))
    return facts


def _heading(number: int, proposal: Proposal) -> Text:
    """`approve` does the first."""
    line = Text(f"  {'approve' if number == 1 else 'choose':<9}{number:>2} ")
    line.append(str(proposal.strategy), style="bold")
    if proposal.strategy is Strategy.ASK_HUMAN:
        line.append(f"  run again unchanged, once you have mended the cause: {clean(proposal.why)}", style="default")
        return line
    line.append(f"  {proposal.confidence:.0%}  {dollars(proposal.cost_microusd)}  ")
    line.append(
        clean(f"{'refused: ' if proposal.refused else ''}{proposal.why}"), style="yellow" if proposal.refused else ""
    )
    return line


def _change(change: Modification) -> str:
    parameters = parse_json_text(change.parameters)
    if not isinstance(parameters, dict):
        return f"{change.kind}: {clean(parameters)}"
    return f"{change.kind}: " + ", ".join(f"{clean(name)}={clean(value)}" for name, value in parameters.items())


def scope_of(scope: PauseScope, target: str) -> str:
    """What stands still, in words."""
    return "everything" if scope is PauseScope.ALL else clean(f"{scope} {target}")
