"""The operator's catalogue: what is missing or wrong in it is said with its place, and nothing of it is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.records import Category, Strategy
from streams.decide.catalogue import CatalogueError, load, parse, shipped


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.toml"


def test_an_operators_file_is_laid_over_the_shipped_one(own: Path) -> None:
    own.write_text(
        """
        version = "mine"
        [limits]
        retry_after_cap_s = 300.0
        [learning]
        opt_out = ["acme"]
        [ladders.tool_failure]
        rate_limit = { fallback_service = 0.9 }
        [models."my-model"]
        provider = "me"
        tier = 1
        window_tokens = 1000
        input_usd = 0.0
        output_usd = 0.0
        upgrade = "gpt-4"
        aliases = ["my-old-model"]
        [fallbacks]
        payments = ["payments-eu"]
        [value_usd]
        "tool_failure.rate_limit" = 2.5
        [[rubrics]]
        name = "mine"
        words = ["product"]
        text = "Ask me."
        """
    )
    catalogue = load(own)
    assert catalogue.limits.retry_after_cap_s == 300
    assert catalogue.limits.max_timeout_s == shipped().limits.max_timeout_s
    assert catalogue.learning.opt_out == {"acme"}
    assert catalogue.learning.tenant_share_permille == shipped().learning.tenant_share_permille == 300
    assert catalogue.ladder(Category.TOOL_FAILURE, "rate_limit") == {Strategy.FALLBACK_SERVICE: 0.9}
    assert catalogue.ladder(Category.TOOL_FAILURE, "timeout") == shipped().ladder(Category.TOOL_FAILURE, "timeout")
    known = catalogue.model("vendor/My-Old-Model")
    assert known is not None
    assert known.name == "my-model"
    assert catalogue.rubric("Recommend a product") == catalogue.rubrics[0]
    assert catalogue.value_microusd(Category.TOOL_FAILURE, "rate_limit") == 2_500_000
    assert catalogue.value_microusd(Category.TOOL_FAILURE, "timeout") == 50_000_000


def test_the_version_changes_with_what_is_loaded(own: Path) -> None:
    own.write_text("[limits]\nmax_step_limit = 300\n")
    assert load(own).version != shipped().version
    assert load(own).version == load(own).version
    assert load(None) is shipped()


MODEL = '[models.m]\nprovider = "p"\ntier = 1\nwindow_tokens = 9\ninput_usd = 0\noutput_usd = 0\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("version = ", "not TOML"),
        ("ladders = 3", "ladders: Input should be a valid dictionary"),
        ("[limits]\nretry_after_cap_s = -1.0", "limits.retry_after_cap_s: Input should be greater than 0"),
        ("[limits]\nretry_after_cap_s = inf", "limits.retry_after_cap_s"),
        ("[limits]\nretry_after_cap = 9", "limits.retry_after_cap: Extra inputs are not permitted"),
        ("[learning]\ntenant_share = 0.0", "learning.tenant_share: Input should be greater than or equal to 0.001"),
        ("[learning]\ntenant_share = 1.1", "learning.tenant_share: Input should be less than or equal to 1"),
        ('[learning]\nopt_out = "acme"', "learning.opt_out: Input should be a valid frozenset"),
        ('[learning]\nopt_out = ["a/b"]', "learning.opt_out.0: String should match pattern"),
        ("[learning]\nshare = 0.3", "learning.share: Extra inputs are not permitted"),
        ("[ladders.nonsense]", "ladders.nonsense: there is no category 'nonsense'"),
        ("[ladders.none]\ncontrol_flow = {}", "ladders.none: has no ladders"),
        ("[ladders.tool_failure]\nrate = {}", "ladders.tool_failure.rate: no such subtype"),
        ("[ladders.tool_failure]\ntimeout = { waiting = 0.5 }", "there is no strategy 'waiting'"),
        ("[ladders.tool_failure]\ntimeout = { ask_human = 0.5 }", "ask_human ends every ladder by itself"),
        ("[ladders.tool_failure]\ntimeout = { retry_once = 1.5 }", "ladders.tool_failure.timeout.retry_once"),
        ("[models.m]\ntier = 1", "models.m.provider: Field required"),
        (MODEL + 'upgrade = "n"', "models.m.upgrade: there is no model 'n'"),
        (MODEL + 'upgrade = "m"', "models.m.upgrade: runs in a circle through 'm'"),
        (MODEL + 'faster = "gpt-4"', "models.m.faster: 'gpt-4' is of a higher tier"),
        (MODEL.replace("= 1\n", "= 3\n") + 'upgrade = "gpt-4"', "models.m.upgrade: 'gpt-4' is of a lower tier"),
        (
            MODEL.replace("= 9\n", "= 8192\n") + 'larger = "gpt-4"',
            "models.m.larger: the window of 'gpt-4' is no larger",
        ),
        ('[fallbacks]\npay = ["https://elsewhere.example/pay"]', "fallbacks.pay.0"),
        ("[strategies]\nguess = {}", "there is no strategy 'guess'"),
        ('rubrics = [{ name = "r", text = "" }]', "rubrics.0.text"),
    ],
)
def test_a_fault_is_named_with_its_place(own: Path, text: str, fault: str) -> None:
    own.write_text(text)
    with pytest.raises(CatalogueError) as raised:
        load(own)
    assert fault in str(raised.value)


def test_a_catalogue_of_its_own_must_be_whole() -> None:
    with pytest.raises(CatalogueError) as raised:
        parse('version = "1"')
    for table in ("limits", "ladders", "models", "strategies", "value_usd"):
        assert f"{table}: Field required" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-4", "gpt-4"),
        ("GPT-4", "gpt-4"),
        ("gpt-4-0613", "gpt-4"),
        ("openai/gpt-4o-2024-08-06", "gpt-4o"),
        ("anthropic/claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("gemini-2.5-flash-preview-05-20", "gemini-2.5-flash"),
        ("gpt-4-turbo", "gpt-4-turbo"),
        ("gpt-4-vision", None),
        ("gpt-4x", None),
        ("gpt", None),
        ("", None),
        (None, None),
    ],
)
def test_a_model_is_known_by_the_names_of_its_versions(name: str | None, model: str | None) -> None:
    known = shipped().model(name)
    assert (known.name if known else None) == model


def test_published_confidences() -> None:
    """The product's table, number by number: an edit of the catalogue must not drift from it unseen."""
    ladder = shipped().ladder
    for subtype in ("range_violation", "enum_violation", "format_violation"):
        assert ladder(Category.HALLUCINATION, subtype) == {
            Strategy.FUNCTION_CALLING: 0.98,
            Strategy.MODEL_UPGRADE: 0.95,
            Strategy.CONSTRAINT_INJECTION: 0.92,
            Strategy.VALIDATION_TOOL: 0.85,
        }
    for category, subtype, strategy, confidence in (
        (Category.TOOL_FAILURE, "rate_limit", Strategy.EXPONENTIAL_BACKOFF, 0.90),
        (Category.TOOL_FAILURE, "timeout", Strategy.ASYNC_EXECUTION, 0.85),
        (Category.TOOL_FAILURE, "timeout", Strategy.INCREASE_TIMEOUT, 0.60),
        (Category.TOOL_FAILURE, "auth_error", Strategy.REFRESH_CREDENTIALS, 0.95),
        (Category.TOOL_FAILURE, "service_unavailable", Strategy.FALLBACK_SERVICE, 0.70),
        (Category.LOGICAL_ERROR, "incorrect_assumption", Strategy.CORRECT_CONTEXT, 0.90),
        (Category.LOGICAL_ERROR, "wrong_conclusion", Strategy.DECISION_RUBRIC, 0.88),
        (Category.PERFORMANCE, "timeout", Strategy.REDUCE_COMPLEXITY, 0.80),
        (Category.PERFORMANCE, "timeout", Strategy.FASTER_MODEL, 0.75),
        (Category.PERFORMANCE, "out_of_memory", Strategy.PROCESS_IN_BATCHES, 0.85),
    ):
        assert ladder(category, subtype)[strategy] == confidence
