"""What recover may do, and who may decide: validated data with a version, tenant over agent over tool over default."""

from __future__ import annotations

import hashlib
import json
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from schemas import signing
from schemas.records import ChoiceMode, Option, Strategy

SHIPPED: Final = Path(__file__).with_name("policy.toml")
_DAY_S: Final = 24 * 3600.0
_LAYERS: Final = ("tools", "agents", "tenants")
EVERY_TENANT: Final = "*"


class PolicyError(ValueError):
    """The policy file cannot be used; the message names the key."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Policy(_Table):
    """The limits that hold for one recovery. Keys are explained in policy.toml."""

    mode: ChoiceMode = ChoiceMode.GREEDY
    max_attempts: int = Field(default=3, ge=0, le=20)
    max_cost_microusd: int = Field(default=500_000, ge=0, le=2**53)
    max_duration_s: float = Field(default=7200, gt=0, le=_DAY_S)
    min_confidence: float = Field(default=0.05, ge=0, le=1)
    allow_unsafe_effects: bool = False
    allowed_strategies: frozenset[Strategy] | None = None
    """Absent: all but the forbidden."""
    forbidden_strategies: frozenset[Strategy] = frozenset()
    options_wait_s: float = Field(default=3600, gt=0, le=_DAY_S)
    checkpoint_wait_s: float = Field(default=2, ge=0, le=60)
    merge_wait_s: float = Field(default=1, ge=0, le=60)
    branch_grace_s: float = Field(default=2, ge=0, le=60)
    start_within_s: float = Field(default=60, gt=0, le=_DAY_S)
    attempt_s: float = Field(default=120, gt=0, le=_DAY_S)
    call_s: float = Field(default=30, gt=0, le=_DAY_S)
    max_outcome_wait_s: float = Field(default=7200, gt=0, le=_DAY_S)
    max_delay_s: float = Field(default=7200, ge=0, le=_DAY_S)
    max_timeout_s: float = Field(default=7200, ge=0, le=_DAY_S)
    allowed_models: frozenset[str] | None = None
    """Absent: all but the forbidden."""
    forbidden_models: frozenset[str] = frozenset()
    person_wait_s: float = Field(default=7200, ge=0, le=_DAY_S)
    approve_strategies: frozenset[Strategy] = frozenset()
    approve_above_microusd: int | None = Field(default=None, ge=0, le=2**53)
    dependency_burst: int = Field(default=25, ge=1, le=10_000)
    dependency_per_s: float = Field(default=10, ge=0.001, le=10_000)
    permit_reask_s: float = Field(default=30, ge=0.1, le=600)
    permit_valid_s: float = Field(default=15, ge=1, le=600)
    probe_wait_s: float = Field(default=60, ge=1, le=3600)
    breaker_window_s: int = Field(default=30, ge=1, le=120)
    breaker_min_failures: int = Field(default=20, ge=1, le=100_000)
    breaker_min_failed: int = Field(default=5, ge=0, le=100_000)
    breaker_min_told: int = Field(default=10, ge=1, le=100_000)
    breaker_error_rate: float = Field(default=0.8, gt=0, le=1)
    breaker_open_s: float = Field(default=5, ge=0.1, le=3600)
    breaker_max_open_s: float = Field(default=300, ge=0.1, le=_DAY_S)
    release_per_s: float = Field(default=2, gt=0, le=10_000)
    release_max_per_s: float = Field(default=50, gt=0, le=10_000)
    retry_budget_window_s: int = Field(default=60, ge=1, le=120)
    retry_budget_floor: int = Field(default=300, ge=1, le=10**9)
    retry_budget_share: float = Field(default=2, ge=0, le=1000)
    tenant_budget_floor: int = Field(default=3000, ge=1, le=10**9)

    @field_validator("mode", "allowed_strategies", "forbidden_strategies", "approve_strategies")
    @classmethod
    def _known(cls, value: Any) -> Any:
        # Wire enums turn what they do not know into `unknown`; in a policy that is a typing error.
        if "unknown" in (value if isinstance(value, frozenset) else (value,)):
            raise ValueError("unknown name")
        return value

    def forbids(self, strategy: Strategy) -> bool:
        """Whether this policy leaves `strategy` out."""
        allowed = self.allowed_strategies
        return strategy in self.forbidden_strategies or (allowed is not None and strategy not in allowed)

    def forbids_model(self, model: str) -> bool:
        """Whether no run may be told to use `model`."""
        allowed = self.allowed_models
        return model in self.forbidden_models or (allowed is not None and model not in allowed)

    def wants_approval(self, option: Option) -> bool:
        """Whether a person must approve `option` before it is done."""
        limit = self.approve_above_microusd
        return option.strategy in self.approve_strategies or (limit is not None and option.cost_microusd > limit)


class Operator(_Table):
    """Who may answer for these tenants, by the key that signs."""

    public_key: str
    tenants: frozenset[str] = Field(min_length=1)

    @field_validator("public_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        signing.public_key(value)
        return value

    def may_decide_for(self, tenant_id: str) -> bool:
        """`EVERY_TENANT`: whether for all of them."""
        return EVERY_TENANT in self.tenants or tenant_id in self.tenants

    def has_signed(self, record: signing.Signed) -> bool:
        """Whether `record` is, in every field, what this operator signed."""
        return signing.is_signed_by(record, signing.public_key(self.public_key))


class Policies:
    """A policy file. `version` is a digest of what it says: it stands on every command."""

    def __init__(self, tables: dict[str, Any]) -> None:
        """`tables` as TOML reads them. Raises PolicyError."""
        unknown = set(tables) - {"default", *_LAYERS, "operators"}
        if unknown:
            raise PolicyError(f"unknown table: {', '.join(sorted(unknown))}")
        self._default: dict[str, Any] = tables.get("default", {})
        self._layers = [tables.get(name, {}) for name in _LAYERS]
        self._resolve = lru_cache(maxsize=4096)(self._merged)
        _checked(Policy, "default", self._default)
        for name, layer in zip(_LAYERS, self._layers, strict=True):
            for key, table in layer.items():
                _checked(Policy, f"{name}.{key}", {**self._default, **table})
        self.operators: dict[str, Operator] = {
            name: _checked(Operator, f"operators.{name}", table) for name, table in tables.get("operators", {}).items()
        }
        # What the code takes for absent keys counts too; the text must not depend on a set's order.
        said = json.dumps([Policy().model_dump(mode="json"), tables], sort_keys=True, default=str)
        self.version: str = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The policy in `path`, or the one that ships. Raises PolicyError."""
        path = path or SHIPPED
        try:
            return cls(tomllib.loads(path.read_text()))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PolicyError(f"{path}: {error}") from error
        except (AttributeError, TypeError) as error:  # a key where a table belongs
            raise PolicyError(f"{path}: {error}") from error

    def of(self, tenant_id: str, agent_id: str | None, tool: str | None) -> Policy:
        """What holds for a failure of this tenant, agent and tool."""
        tools, agents, tenants = self._layers
        return self._resolve(
            tool if tool in tools else None,
            agent_id if agent_id in agents else None,
            tenant_id if tenant_id in tenants else None,
        )

    def may_be_answered(self, tenant_id: str) -> bool:
        """Whether anybody may decide for this tenant."""
        return any(operator.may_decide_for(tenant_id) for operator in self.operators.values())

    def _merged(self, *names: str | None) -> Policy:
        merged = dict(self._default)
        for layer, name in zip(self._layers, names, strict=True):
            if name is not None:
                merged.update(layer[name])
        return _checked(Policy, "merged", merged)


_T = TypeVar("_T", bound=_Table)


def _checked(model: type[_T], where: str, table: dict[str, Any]) -> _T:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise PolicyError(f"[{where}] {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
