"""A loan agent without structured output: its model answers free text, which the agent holds against its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from omium.constraints import violations

from cli.demo.job import Job, Json, RunFailed, Work
from cli.demo.model import UNABLE, ScriptedModel

Constraints = Mapping[str, Mapping[str, Json]]

APR: Final[Constraints] = {"apr": {"type": "range", "min": 2.5, "max": 8.5}}
AGE: Final[Constraints] = {"age": {"type": "range", "min": 18, "max": 120}}
PRODUCT: Final[Constraints] = {"product": {"type": "enum", "values": ["Savings", "Checking", "Credit", "Loan"]}}
TERMS: Final[Constraints] = {**APR, "months": {"type": "range", "min": 12, "max": 120}}
IBAN: Final[Constraints] = {"iban": {"type": "format", "pattern": "[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}"}}


def _ask(model: ScriptedModel, constraints: Constraints, complexity: str) -> Callable[[Job], Json]:
    def run(job: Job) -> Json:
        job.state.setdefault("application", {"customer": "C-1009", "amount": 10_000})
        output = model.answer(job.modifications)
        if problems := [output] if output == UNABLE else violations(output, constraints):
            raise RunFailed(
                f"the model's answer breaks the loan rules: {'; '.join(problems)}",
                origin="model",
                output=output,
                constraints=constraints,
                execution={"prompt": model.prompt, "model": model.model, "complexity": complexity},
                side_effects="none",
            )
        return output

    return run


def _loan(
    name: str,
    failing: str,
    model: ScriptedModel,
    constraints: Constraints,
    cures: set[str],
    capabilities: tuple[str, ...],
    complexity: str = "simple",
) -> Work:
    return Work(
        name=name,
        agent="loan-agent",
        failing=failing,
        run=_ask(model, constraints, complexity),
        right=lambda output: output == model.answers[-1],
        cures=frozenset(cures),
        capabilities=capabilities,
        model=model.model,
        step="answer",
    )


_APR: Final = ScriptedModel(
    prompt="Calculate the APR for a loan. Output as JSON.", answers=({"apr": 0.0}, {"apr": 6.9})
)
_AGE: Final = ScriptedModel(prompt="Calculate the customer's age. Output as JSON.", answers=({"age": 245}, {"age": 45}))
_PRODUCT: Final = ScriptedModel(
    prompt="What product type is it? Output as JSON.",
    answers=({"product": "Unknown_Product_V47"}, {"product": "Loan"}),
)
_TERMS: Final = ScriptedModel(
    prompt="Work out the terms of the loan. Output as JSON.",
    answers=({"apr": 0.0, "months": 60}, {"apr": 5.4, "months": 60}),
    reads_added_rules=False,
)
_IBAN: Final = ScriptedModel(
    prompt="Give the customer's IBAN. Output as JSON.",
    answers=({"iban": "PT50-0002-0123"}, {"iban": "PT50000201231234567890154"}),
)
_ANY: Final = {"append_prompt", "add_tool", "set_output_schema", "set_model"}
WORKS: Final = (
    _loan("loan-apr", "APR 0 %", _APR, APR, _ANY, ("append_prompt", "set_output_schema")),
    _loan("loan-age", "an age of 245", _AGE, AGE, _ANY, ("append_prompt",)),
    _loan("loan-product", "'Unknown_Product_V47'", _PRODUCT, PRODUCT, _ANY, ("add_tool",)),
    _loan("loan-iban", "an IBAN with dashes", _IBAN, IBAN, _ANY - {"append_prompt"}, ("set_output_schema",)),
    _loan(
        "loan-terms",
        "APR 0 % in terms that are hard",
        _TERMS,
        TERMS,
        _ANY - {"append_prompt"},
        ("set_model",),
        "complex",
    ),
    _loan(
        "loan-stubborn",
        "APR 0 %; its model skims over added rules",
        replace(_APR, reads_added_rules=False),
        APR,
        _ANY - {"append_prompt"},
        ("append_prompt", "add_tool"),
    ),
)

GRAPH: Final = replace(
    _loan("graph-loan", "APR 0 % in a LangGraph graph", _APR, APR, _ANY, ("append_prompt", "add_tool")),
    agent="graph-agent",
    step="propose",
)
"""The work of the node `propose` of the graph in `cli.demo.graph`."""
