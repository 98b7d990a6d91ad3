"""Remedies for an output that breaks its constraints, or names what does not exist."""

from __future__ import annotations

import re
from typing import Final

from schemas.records import Strategy
from streams.decide.options.constraints import Demand, demand
from streams.decide.options.context import Context, Generator, Remedy, dumps
from streams.decide.options.names import wrong_name
from streams.decide.options.quoting import listed, name, quoted, with_note

UNABLE: Final = "output 'UNABLE_TO_COMPLETE' instead."
_UNSAID_FACTOR: Final = 0.9
"""Of constraint_injection's confidence, where the runtime did not share the constraint itself."""
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


def function_calling(context: Context) -> Remedy | None:
    """Structured output by the schema of all constrained fields."""
    wanted = demand(context)
    if wanted.schema is None:
        return None
    text = dumps({"name": _tool_name("answer", wanted), "schema": wanted.schema})
    return Remedy(text, f"A schema lets the model give only valid values ({_fields(wanted)}).")


def constraint_injection(context: Context) -> Remedy | None:
    """The published text, for all violated fields together."""
    if context.verdict.subtype == "unknown_tool":
        return _known_tools_only(context)
    wanted = demand(context)
    if not wanted.rules:
        return _said_by_the_check(context)
    lines = [f"IMPORTANT: {rule.shown} {rule.must}. {rule.never}" for rule in wanted.rules]
    field = wanted.rules[0].field if len(lines) == 1 else ""
    text = with_note(
        *lines, f"If you cannot determine {f'a valid {name(field)}' if field else 'valid values'}, {UNABLE}"
    )
    return Remedy(dumps({"text": text}), f"Says to the model what its output broke ({_fields(wanted)}).")


def _known_tools_only(context: Context) -> Remedy:
    tools = context.event.execution.tools if context.event.execution is not None else ()
    wrong = wrong_name(context)
    lines = [
        f"IMPORTANT: There is no tool {name(wrong)}." if wrong else "IMPORTANT: You called a tool that does not exist.",
        f"The only tools are {listed(tools)}. Never call any other tool."
        if tools
        else "Never call a tool that you were not given; use their exact names.",
        f"If none of them can do what you need, {UNABLE}",
    ]
    why = (
        "Names the tools that exist." if tools else "Says which tool does not exist; the runtime did not say which do."
    )
    return Remedy(dumps({"text": with_note(*lines)}), why, 1.0 if tools else _UNSAID_FACTOR)


def _said_by_the_check(context: Context) -> Remedy:
    """Where no constraint is known, what the check said takes its place."""
    said = context.message
    text = with_note(
        "IMPORTANT: The last output was refused by its check. Output exactly one answer in the required form, complete "
        "and without any text around it.",
        f"The check said: {quoted(said, 400)}" if said else "",
        f"If you cannot give an answer that passes, {UNABLE}",
    )
    return Remedy(
        dumps({"text": text}), "Says to the model what its output broke, as the check said it.", _UNSAID_FACTOR
    )


def validation_tool(context: Context) -> Remedy | None:
    """A tool that checks an output by the same schema and answers valid, or error and suggestion."""
    wanted = demand(context)
    if wanted.schema is None:
        return None
    text = dumps(
        {
            "name": _tool_name("validate", wanted),
            "description": "Checks your answer before you give it. Call it with the complete answer; where it says "
            "that the answer is not valid, correct the answer as suggested and call it again.",
            "input_schema": wanted.schema,
            "suggestion": with_note(*(f"{rule.shown} {rule.must}." for rule in wanted.rules)),
        }
    )
    return Remedy(text, "The model checks its answer with a tool before it gives it.")


def _fields(wanted: Demand) -> str:
    names = dict.fromkeys(rule.shown for rule in wanted.rules)
    return ", ".join(list(names)[:5]) or "all of its fields"


def _tool_name(prefix: str, wanted: Demand) -> str:
    """A function's name as every provider accepts it: letters, digits, `_-`, at most 64."""
    field = wanted.rules[0].field if len(wanted.rules) == 1 else ""
    return _NO_NAME.sub("_", f"{prefix}_{field}")[:64].rstrip("_")


GENERATORS: Final[dict[Strategy, Generator]] = {
    Strategy.FUNCTION_CALLING: function_calling,
    Strategy.CONSTRAINT_INJECTION: constraint_injection,
    Strategy.VALIDATION_TOOL: validation_tool,
}
