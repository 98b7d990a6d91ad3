"""Agents that reason wrongly. A review knows the facts and the required steps, and holds the reasoning against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cli.demo.job import Job, Json, RunFailed, Work
from cli.demo.model import ScriptedModel

CAPABILITIES: Final = ("provide_context", "add_rubric", "break_loop")
_MAX_CALLS: Final = 6


def _refused(message: str, model: ScriptedModel, **evidence: Any) -> RunFailed:
    return RunFailed(
        message,
        origin="model",
        execution={"prompt": model.prompt, "model": model.model},
        side_effects="none",
        **evidence,
    )


_DISCOUNT: Final = ScriptedModel(
    prompt="Which discount does customer C-1009 get? 20 % for gold, 5 % for standard.",
    beliefs={"customer_tier": "gold"},
)


def _discount(job: Job) -> Json:
    tier = _DISCOUNT.belief(job.modifications, "customer_tier")
    discount = {"gold": 20, "standard": 5}[tier]
    facts = {"customer_tier": "standard", "customer_since": 2011}
    if tier != facts["customer_tier"]:
        raise _refused(
            "the review refuses the discount",
            _DISCOUNT,
            reasoning=[
                {"step": "look at the customer's tier", "assumptions": [{"customer_tier": tier}]},
                {"step": "look up the discount of that tier"},
            ],
            conclusion=f"{discount} %",
            facts=facts,
        )
    return discount


@dataclass(frozen=True, slots=True)
class _Case:
    """A decision that only comes out right when enough was looked at."""

    model: ScriptedModel
    hasty: str
    sound: str

    def decide(self, job: Job) -> tuple[list[str], str]:
        made = self.model.checks_made(job.modifications)
        return made, self.sound if set(made) == set(self.model.checks) else self.hasty


_LAPTOP: Final = _Case(
    ScriptedModel(
        prompt="Should we recommend this product to the customer?",
        checks=("price", "features", "customer fit"),
        habit=("price",),
    ),
    hasty="recommend it",
    sound="do not recommend it",
)
_ACCOUNT: Final = _Case(
    ScriptedModel(
        prompt="Does the customer qualify for a youth account?",
        checks=("age", "government ID"),
        habit=("age",),
    ),
    hasty="qualifies",
    sound="qualifies once an ID is shown",
)
_MERGER: Final = _Case(
    ScriptedModel(
        prompt="Should we buy the company?",
        checks=("revenue", "debt", "pending lawsuits"),
        habit=("revenue",),
    ),
    hasty="buy",
    sound="wait",
)


def _reviewed(case: _Case, message: str, **known: Any) -> Callable[[Job], Json]:
    """A decision that a review holds against what is `known`."""

    def run(job: Job) -> Json:
        made, conclusion = case.decide(job)
        if conclusion != case.sound:
            reasoning = [{"step": f"look at the {check}"} for check in made]
            raise _refused(message, case.model, reasoning=reasoning, conclusion=conclusion, **known)
        return conclusion

    return run


_STATUS: Final = ScriptedModel(prompt="Where is order 7? Ask the tool order_status; else use the last known status.")


def _order(job: Job) -> Json:
    """Ask a tool whose answer never changes, again and again, unless told not to."""
    fingerprint = "order_status(7)"
    _STATUS.checks_made(job.modifications)
    calls: list[dict[str, Json]] = []
    while not job.modifications.forbids("order_status", fingerprint):
        calls.append({"tool": "order_status", "call_fingerprint": fingerprint, "succeeded": True})
        if len(calls) == _MAX_CALLS:
            raise _refused("the run goes round in circles", _STATUS, calls=calls)
    return "in Lisbon"


def _work(name: str, failing: str, run: Callable[[Job], Json], right: Json, cures: set[str]) -> Work:
    return Work(
        name=name,
        agent="adviser",
        failing=failing,
        run=run,
        right=lambda output: output == right,
        cures=frozenset(cures),
        capabilities=CAPABILITIES,
        model="gpt-3.5-turbo",
        step="decide",
    )


_laptop: Final = _reviewed(
    _LAPTOP, "the review comes to another conclusion", expected_output={"correct_conclusion": _LAPTOP.sound}
)
_account: Final = _reviewed(_ACCOUNT, "a required step was skipped", required_steps=list(_ACCOUNT.model.checks))
_merger: Final = _reviewed(
    _MERGER, "the analysis is incomplete", expected_output={"required_factors": list(_MERGER.model.checks)}
)
WORKS: Final = (
    _work("discount", "takes a standard customer for gold", _discount, 5, {"provide_context"}),
    _work("laptop", "cheap, so it must be good", _laptop, _LAPTOP.sound, {"add_rubric"}),
    _work("account", "skips the ID", _account, _ACCOUNT.sound, {"add_rubric"}),
    _work("merger", "looks at revenue alone", _merger, _MERGER.sound, {"add_rubric"}),
    _work("order", "asks the same thing again and again", _order, "in Lisbon", {"break_loop"}),
)
