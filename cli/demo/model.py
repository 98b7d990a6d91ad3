"""A scripted model: it stands in for an LLM, so that the demo needs no key, no network and no luck.

It knows nothing and reasons nothing. What it has is a habit (what it says first, and that is wrong) and
other things that it could say. Which of them it says depends only on what a real model would be given:
its prompt, the schema that constrains decoding, the tools that it must ask, facts, and which model it
is. So a run recovers because a modification changed what the model was given, and a modification that
does not bear on the habit changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import jsonschema_rs
from omium import Modifications

from cli.demo.job import Json

UNABLE: Final = "UNABLE_TO_COMPLETE"
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_RANGE: Final = re.compile(rf"(\w+) must be between {_NUMBER} and {_NUMBER}", re.IGNORECASE)
_CHOICE: Final = re.compile(r"(\w+) must be (?:exactly )?one of:? ([^\n]+?)\.(?:\s|$)", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What tells one model from another here."""

    strong: bool
    """Answers a hard task by itself."""
    step_s: float
    """Time of one step of reasoning; a demo cannot wait for real ones."""
    window_tokens: int


SIZES: Final[Mapping[str, Size]] = {
    "gpt-3.5-turbo": Size(strong=False, step_s=0.02, window_tokens=16_385),
    "gpt-4": Size(strong=True, step_s=0.15, window_tokens=8_192),
}
_OTHER: Final = Size(strong=True, step_s=0.15, window_tokens=128_000)
"""Any model that is not named above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedModel:
    """What the model could do with one task, and does by habit."""

    prompt: str
    model: str = "gpt-3.5-turbo"
    answers: tuple[dict[str, Json], ...] = ()
    """The habit first, what is right last. A strong model starts with the last."""
    reads_added_rules: bool = True
    """False: it skims over a rule at the end of its prompt, as weak models do."""
    beliefs: Mapping[str, Json] = field(default_factory=dict)
    """What it takes for true until a fact in its context says otherwise."""
    checks: tuple[str, ...] = ()
    """Every check that it could make on the way to a conclusion."""
    habit: tuple[str, ...] = ()
    """The checks that it makes unasked."""
    steps: int = 1
    """Steps of reasoning that it takes where nobody limits them."""

    def answer(self, asked: Modifications) -> Json:
        """The first of its answers that everything it was given lets through."""
        answers = list(self.answers)
        if self._size(asked).strong:
            answers.reverse()
        if (structured := asked.output_schema()) is not None:
            answers = [a for a in answers if jsonschema_rs.is_valid(structured.json_schema, a)]
        prompt = asked.prompt(self.prompt)
        if self.reads_added_rules:
            answers = [a for a in answers if not _breaks_a_rule(prompt, a)]
        for tool in asked.tools():
            answers = [a for a in answers if tool.check(a)["valid"]]
        return answers[0] if answers else UNABLE

    def think(self, asked: Modifications) -> Iterator[int]:
        """Reason step by step, each taking its time."""
        asked.prompt(self.prompt)
        limit = asked.max_reasoning_steps() or self.steps
        for step in range(min(limit, self.steps)):
            time.sleep(self._size(asked).step_s)
            yield step

    def belief(self, asked: Modifications, name: str) -> Json:
        """The fact of this name in its context, else what it assumes."""
        asked.prompt(self.prompt)
        return asked.facts().get(name, self.beliefs[name])

    def checks_made(self, asked: Modifications) -> list[str]:
        """The checks of habit, and those that its instructions name."""
        asked.facts()  # rendered in the prompt
        said = _words(asked.prompt(self.prompt))
        return [check for check in self.checks if check in self.habit or _words(check) <= said]

    def window_tokens(self, asked: Modifications) -> int:
        """How long a context it takes."""
        return self._size(asked).window_tokens

    def _size(self, asked: Modifications) -> Size:
        return SIZES.get(asked.model(self.model), _OTHER)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _breaks_a_rule(prompt: str, answer: dict[str, Json]) -> bool:
    """Whether `answer` is against a rule that stands in the prompt, in words that a model would understand."""
    fields = {name.lower(): value for name, value in answer.items()}
    for name, low, high in _RANGE.findall(prompt):
        value = fields.get(name.lower())
        if isinstance(value, int | float) and not float(low) <= value <= float(high):
            return True
    for name, choices in _CHOICE.findall(prompt):
        value = fields.get(name.lower())
        if value is not None and str(value).lower() not in choices.lower():
            return True
    return False
