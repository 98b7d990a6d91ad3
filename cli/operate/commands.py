"""Signatures of what people do; each command imports what it runs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import Bootstrap, ExitCode, Json, fail, reported, settings

if TYPE_CHECKING:
    from schemas.records import ActionKind, PauseScope

_PANEL = "People"
_Recovery = Annotated[
    str, typer.Argument(help="Recovery id or its beginning, or the execution: its id, or tenant_id/execution_id.")
]
_Key = Annotated[
    Path | None, typer.Option(envvar="OMIUM_OPERATOR_KEY", help="Your private key; else the only one that is kept.")
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")]
_Reason = Annotated[str, typer.Option(help="Why, for those who read the audit.")]
_Tenant = Annotated[list[str] | None, typer.Option(help="A tenant id; may be repeated.")]
_Tool = Annotated[list[str] | None, typer.Option(help="A tool, as failures name it; may be repeated.")]
_Strategy = Annotated[list[str] | None, typer.Option(help="A strategy; may be repeated.")]
_All = Annotated[bool, typer.Option("--all", help="Everything.")]

operator_app = typer.Typer(no_args_is_help=True, help="Who may decide.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(operator_app, name="operator", rich_help_panel=_PANEL)
    for command in (escalations, approve, choose, reject, pause, resume, pauses):
        app.command(rich_help_panel=_PANEL)(command)


@operator_app.command("keygen")
def keygen(
    name: Annotated[str, typer.Argument(help="As the policy file and the audit will name you.")],
    into: Annotated[Path | None, typer.Option(help="Folder; default: ~/.config/omium/operators.")] = None,
) -> None:
    """Make a key, NAME.pem, that only you can read; prints what the policy file needs to know of it."""
    from cli.operate import act

    act.keygen(name, into)


def escalations(ctx: typer.Context, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """What waits for a person, newest first: the question, each answer, and what it would send."""
    from cli.operate import act

    with reported():
        act.escalations(settings(ctx, bootstrap=bootstrap), as_json=as_json)


def approve(
    ctx: typer.Context,
    recovery: _Recovery,
    reason: _Reason = "",
    key: _Key = None,
    yes: _Yes = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Do what is proposed first, exactly as it is shown."""
    from schemas.records import ActionKind

    _decide(ctx, ActionKind.APPROVE, recovery, "", reason, key, yes, bootstrap, as_json)


def choose(
    ctx: typer.Context,
    recovery: _Recovery,
    proposal: Annotated[str, typer.Argument(help="The strategy, or the number of the proposal.")],
    reason: _Reason = "",
    key: _Key = None,
    yes: _Yes = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Do another of the proposals."""
    from schemas.records import ActionKind

    _decide(ctx, ActionKind.CHOOSE, recovery, proposal, reason, key, yes, bootstrap, as_json)


def reject(
    ctx: typer.Context,
    recovery: _Recovery,
    reason: Annotated[str, typer.Option(help="Why, for those who read the audit.")],
    key: _Key = None,
    yes: _Yes = False,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """End the recovery: none of it is to be done."""
    from schemas.records import ActionKind

    _decide(ctx, ActionKind.REJECT, recovery, "", reason, key, yes, bootstrap, as_json)


def _decide(
    ctx: typer.Context,
    kind: ActionKind,
    recovery: str,
    choice: str,
    reason: str,
    key: Path | None,
    yes: bool,
    bootstrap: str | None,
    as_json: bool,
) -> None:
    from cli.operate import act

    chosen = settings(ctx, bootstrap=bootstrap)
    with reported():
        code = act.decide(chosen, kind, recovery, choice=choice, reason=reason, key=key, yes=yes, as_json=as_json)
    raise typer.Exit(code)


def pause(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option(help="Why, for those who meet it.")],
    tenant: _Tenant = None,
    tool: _Tool = None,
    strategy: _Strategy = None,
    everything: _All = False,
    key: _Key = None,
    yes: _Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Issue no commands for a tenant, a tool, a strategy or at all; what waits is held until it is resumed."""
    _pause(ctx, True, tenant, tool, strategy, everything, reason, key, yes, bootstrap)


def resume(
    ctx: typer.Context,
    tenant: _Tenant = None,
    tool: _Tool = None,
    strategy: _Strategy = None,
    everything: Annotated[bool, typer.Option("--all", help="End the pause of everything; others stay.")] = False,
    reason: _Reason = "",
    key: _Key = None,
    yes: _Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """End a pause: what was held goes on, little by little."""
    _pause(ctx, False, tenant, tool, strategy, everything, reason, key, yes, bootstrap)


def _pause(
    ctx: typer.Context,
    paused: bool,
    tenants: list[str] | None,
    tools: list[str] | None,
    strategies: list[str] | None,
    everything: bool,
    reason: str,
    key: Path | None,
    yes: bool,
    bootstrap: str | None,
) -> None:
    from cli.operate import act
    from schemas.records import PauseScope

    scopes: list[tuple[PauseScope, str]] = [(PauseScope.ALL, "")] if everything else []
    scopes += [(PauseScope.TENANT, target) for target in tenants or ()]
    scopes += [(PauseScope.TOOL, target) for target in tools or ()]
    scopes += [(PauseScope.STRATEGY, target) for target in strategies or ()]
    if not scopes:
        fail("say what: --tenant, --tool, --strategy or --all", ExitCode.USAGE)
    with reported():
        act.pause(settings(ctx, bootstrap=bootstrap), scopes, paused=paused, reason=reason, key=key, yes=yes)


def pauses(ctx: typer.Context, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """What is paused now, since when, by whom and why."""
    from cli.operate import act

    with reported():
        act.pauses(settings(ctx, bootstrap=bootstrap), as_json=as_json)
