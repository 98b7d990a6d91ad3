"""What the operator edits: ladders, models, rubrics, fallbacks, costs, learning. Read once at start, then frozen.

`streams/decide/catalogue.toml` ships with the product and says what each table means.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, cached_property
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Self

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from schemas.records import Category, Strategy, WireEnum
from schemas.records.base import TenantId
from streams.decide.classify.taxonomy import SUBTYPES

NO_LADDER: Final = frozenset({Category.NONE, Category.UNCLASSIFIED})
"""What is no failure has no remedy; what is not understood has only a person."""


def _known(enum: type[WireEnum]) -> BeforeValidator:
    """Refuses names that the wire would let pass as the enum's default."""

    def check(value: object) -> object:
        if value not in {str(member) for member in enum}:
            raise ValueError(f"there is no {enum.__name__.lower()} {value!r}")
        return value

    return BeforeValidator(check)


def _rung(value: Strategy) -> Strategy:
    if value in {Strategy.UNKNOWN, Strategy.ASK_HUMAN}:
        raise ValueError(f"{value} is no rung; ask_human ends every ladder by itself")
    return value


_Category = Annotated[Category, _known(Category)]
_Strategy = Annotated[Strategy, _known(Strategy)]
_Rung = Annotated[Strategy, _known(Strategy), AfterValidator(_rung)]
_Probability = Annotated[float, Field(ge=0, le=1)]
_Usd = Annotated[float, Field(ge=0, le=1e6)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@+-]{0,127}$")]
_DATED: Final = re.compile(
    r"-(?:\d{4}-?\d{2}-?\d{2}|\d{4}|latest|preview(?:-\d{2}-\d{2})?)(?:-v\d+)?(?::\d+)?", re.ASCII
)
"""What follows a model's name in the name of one version of it: gpt-4-0613, gpt-4o-2024-08-06."""


class CatalogueError(ValueError):
    """The catalogue cannot be used; the message has one line for each fault, with its place in the file."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Limits(_Table):
    """Bounds and factors of the remedies."""

    retry_after_cap_s: Annotated[float, Field(gt=0, le=86_400)]
    max_timeout_s: Annotated[float, Field(gt=0, le=86_400)]
    max_step_limit: Annotated[int, Field(ge=1, le=100_000)]
    not_bottleneck_factor: _Probability
    output_share: _Probability
    token_headroom: Annotated[float, Field(gt=0, lt=1)]
    window_margin: Annotated[float, Field(ge=1, le=100)]


class StrategyCost(_Table):
    """Extra cost and time of one attempt where the failure does not tell tokens and durations."""

    cost_usd: _Usd = 0.0
    latency_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    turns: Annotated[int, Field(ge=0, le=100)] = 1
    """How many times the model runs in it."""

    @cached_property
    def cost_microusd(self) -> int:
        return round(self.cost_usd * 1e6)


class Model(_Table):
    """One model. Prices in dollars per million tokens."""

    name: str
    provider: _Name
    tier: Annotated[int, Field(ge=1, le=9)]
    """How able it is: an upgrade is never of a lower tier, a faster model never of a higher one."""
    window_tokens: Annotated[int, Field(ge=1)]
    input_usd: _Usd
    output_usd: _Usd
    tokens_per_s: Annotated[float, Field(gt=0)] | None = None
    """Tokens that it writes in a second, where known."""
    simple: _Probability | None = None
    complex: _Probability | None = None
    aliases: tuple[str, ...] = ()
    upgrade: str | None = None
    faster: str | None = None
    larger: str | None = None


class Rubric(_Table):
    """Criteria for a decision."""

    name: _Name
    words: tuple[str, ...] = ()
    """All of them occur, as whole words, in a task that it fits."""
    text: Annotated[str, Field(min_length=1, max_length=8000)]


class Learning(_Table):
    """Whose attempts the success rates are learned from, which all tenants share."""

    tenant_share: Annotated[float, Field(ge=0.001, le=1)]
    """What one tenant may have of what is counted; to the thousandth."""
    opt_out: frozenset[TenantId]
    """Tenants that teach nobody."""

    @cached_property
    def tenant_share_permille(self) -> int:
        return round(self.tenant_share * 1000)


class Catalogue(_Table):
    """All of it. `version` names what was loaded: the file's own version and a digest."""

    version: str
    limits: Limits
    learning: Learning
    value_usd: dict[str, _Usd]
    strategies: dict[_Strategy, StrategyCost]
    ladders: dict[_Category, dict[str, dict[_Rung, _Probability]]]
    models: dict[str, Model]
    rubrics: tuple[Rubric, ...]
    fallbacks: dict[str, tuple[_Name, ...]]
    ask_human: dict[str, Annotated[str, Field(max_length=500)]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = [*self._model_faults(), *self._ladder_faults()]
        faults += [f"{table}.default: missing" for table in ("value_usd", "ask_human") if not self._has_default(table)]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _has_default(self, table: str) -> bool:
        return "default" in getattr(self, table)

    def _model_faults(self) -> list[str]:
        found = (
            (f"models.{model.name}.{direction}", self._chain_fault(model, direction))
            for model in self.models.values()
            for direction in ("upgrade", "faster", "larger")
        )
        return [f"{place}: {fault}" for place, fault in found if fault is not None]

    def _chain_fault(self, model: Model, direction: str) -> str | None:
        name, seen = getattr(model, direction), {model.name}
        if name is None:
            return None
        if name not in self.models:
            return f"there is no model {name!r}"
        following = self.models[name]
        if direction == "larger" and following.window_tokens <= model.window_tokens:
            return f"the window of {name!r} is no larger"
        if direction == "upgrade" and following.tier < model.tier:
            return f"{name!r} is of a lower tier"
        if direction == "faster" and following.tier > model.tier:
            return f"{name!r} is of a higher tier"
        while name in self.models:
            if name in seen:
                return f"runs in a circle through {name!r}"
            seen.add(name)
            name = getattr(self.models[name], direction)
        return None

    def _ladder_faults(self) -> list[str]:
        faults = []
        for category in SUBTYPES.keys() - NO_LADDER:
            known, given = SUBTYPES[category], self.ladders.get(category, {})
            faults += [f"ladders.{category}.{subtype}: missing" for subtype in sorted(known - given.keys())]
            faults += [f"ladders.{category}.{subtype}: no such subtype" for subtype in sorted(given.keys() - known)]
        faults += [f"ladders.{category}: has no ladders" for category in sorted(self.ladders.keys() & NO_LADDER)]
        missing = set(Strategy) - {Strategy.UNKNOWN} - self.strategies.keys()
        return faults + [f"strategies.{strategy}: missing" for strategy in sorted(missing)]

    @cached_property
    def _models_by_name(self) -> dict[str, Model]:
        names = {alias.lower(): model for model in self.models.values() for alias in model.aliases}
        return names | {model.name.lower(): model for model in self.models.values()}

    def model(self, name: str | None) -> Model | None:
        """The model of that name, also with a provider in front (`openai/gpt-4`) or a version behind (`gpt-4-0613`)."""
        if not name:
            return None
        known = self._models_by_name
        name = name.rsplit("/", 1)[-1].lower()[:128]
        if name in known:
            return known[name]
        base, dash, version = name.partition("-")
        while dash:
            if base in known and _DATED.fullmatch("-" + version):
                return known[base]
            word, dash, version = version.partition("-")
            base = f"{base}-{word}"
        return None

    def ladder(self, category: Category, subtype: str) -> dict[Strategy, float]:
        """Strategies that may help, with their confidence before anything was learned."""
        return self.ladders.get(category, {}).get(subtype, {})

    def rubric(self, task: str) -> Rubric | None:
        """The first rubric that fits a task described so."""
        words = set(re.findall(r"\w+", task.lower()))
        return next((r for r in self.rubrics if all(w.lower() in words for w in r.words)), None)

    def question(self, subtype: str) -> str:
        """What a person is asked to do about it."""
        return self.ask_human.get(subtype, self.ask_human["default"])

    def value_microusd(self, category: Category, subtype: str) -> int:
        """What recovering such a run is worth."""
        value = self.value_usd.get(f"{category}.{subtype}")
        if value is None:
            value = self.value_usd.get(category, self.value_usd["default"])
        return round(value * 1e6)


_SHIPPED: Final = files("streams.decide") / "catalogue.toml"
_MERGED_TABLES: Final = ("limits", "learning", "value_usd", "strategies", "models", "fallbacks", "ask_human")


def parse(text: str, *, over: str | None = None) -> Catalogue:
    """The catalogue that these TOML texts describe: `text` laid over `over`. Raises CatalogueError."""
    tables = _toml(text)
    if over is not None:
        tables = _laid_over(_toml(over), tables)
    for table in ("models",):
        entries = tables.get(table)
        if isinstance(entries, dict):
            tables[table] = {k: {**v, "name": k} if isinstance(v, dict) else v for k, v in entries.items()}
    digest = blake2b(orjson.dumps(tables, option=orjson.OPT_SORT_KEYS, default=str), digest_size=4).hexdigest()
    tables["version"] = f"{tables.get('version', '')}+{digest}"
    try:
        return Catalogue.model_validate(tables)
    except ValidationError as error:
        raise CatalogueError(_explained(error)) from error


def load(path: Path | None = None) -> Catalogue:
    """The shipped catalogue, with the operator's file laid over it. Raises CatalogueError, OSError."""
    if path is None:
        return shipped()
    return parse(path.read_text(encoding="utf-8"), over=_SHIPPED.read_text(encoding="utf-8"))


@cache
def shipped() -> Catalogue:
    """The catalogue that ships with the product."""
    return parse(_SHIPPED.read_text(encoding="utf-8"))


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CatalogueError(f"not TOML: {error}") from error


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` before `base`, table by table; of the ladders, subtype by subtype; own rubrics come first."""
    merged = {**base, **own}
    for table in _MERGED_TABLES:
        if isinstance(own.get(table), dict):
            merged[table] = {**base.get(table, {}), **own[table]}
    if isinstance(own.get("ladders"), dict):
        merged["ladders"] = dict(base["ladders"])
        for category, ladders in own["ladders"].items():
            known = base["ladders"].get(category, {})
            merged["ladders"][category] = {**known, **ladders} if isinstance(ladders, dict) else ladders
    if isinstance(own.get("rubrics"), list):
        merged["rubrics"] = [*own["rubrics"], *base["rubrics"]]
    return merged


def _explained(error: ValidationError) -> str:
    lines: list[str] = []
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        message = fault["msg"].removeprefix("Value error, ")
        lines.extend(f"{place}: {message}" if place else part for part in message.split("; "))
    return "\n".join(lines)
