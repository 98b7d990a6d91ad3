"""Secrets in evidence, masked before anything is stored or sent on.

Each rule is one RE2 pattern with the secret in its last group; what is left in place tells a person what kind of thing
stood there. Equal secrets are masked equally but not traceably: no digest of a secret leaves this module.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
import re2

from schemas.patterns import Patterns
from schemas.records import FailureEvent, parse_json_text

MASK: Final = "[masked]"

_TOKEN_FORMS: Final = (
    r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek
    r"\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",  # GitLab
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\bxapp-[A-Za-z0-9-]{10,}",
    r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}\b",  # AWS
    r"\bAIza[A-Za-z0-9_-]{30,}",  # Google
    r"\bya29\.[A-Za-z0-9_-]{16,}",
    r"\bgsk_[A-Za-z0-9]{16,}",  # Groq
    r"\bhf_[A-Za-z0-9]{16,}",  # Hugging Face
    r"\br8_[A-Za-z0-9]{16,}",  # Replicate
    r"\bpplx-[A-Za-z0-9]{16,}",  # Perplexity
    r"\bxai-[A-Za-z0-9]{16,}",
    r"\bnpm_[A-Za-z0-9]{20,}",
    r"\bpypi-[A-Za-z0-9_-]{20,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # JSON Web Token
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
)
_SECRET_NAME: Final = (
    r"(?:[A-Za-z0-9]+[_-])*(?:api[_-]?key|apikey|access[_-]?key(?:[_-]?id)?|secret(?:[_-]?(?:access[_-]?)?key)?|"  # noqa: S105  a pattern of names
    r"(?:access|refresh|auth|session|id|security|bearer|csrf)?[_-]?token|password|passwd|pwd|"
    r"passphrase|credentials?|client[_-]?secret|"
    r"private[_-]?key|authorization|proxy-authorization|cookie|set-cookie|x-api-key|connection[_-]?string|signature|"
    r"x-amz-signature)"
)
_NAMED: Final = (
    # Authorization: Bearer x; `Bearer x` alone; Basic x
    r"(?i)\b(bearer|basic|digest|apikey|token)(\s+)([A-Za-z0-9._~+/=-]{8,})",
    # ://user:password@host
    r"(?i)([a-z][a-z0-9+.-]{1,20}://[^\s:/@'\"]{0,100})(:)([^\s/@'\"]{1,200}@)",
    # key=value, "key": "value", key: value, ?key=value&
    r"(?i)(\b" + _SECRET_NAME + r")(\\*[\"']?\s*(?:=>|[:=]|\bis\b:?)\s*\\*[\"']?)([^\s\"'&,;)}\[\]\\]{4,})",
    r"(?i)(\bkey)(=)([A-Za-z0-9_-]{16,})",
    r"(?i)(api key provided)(:\s*)([^\s.,]{4,})",
)
_TOKEN: Final = re2.compile("(?:" + "|".join(_TOKEN_FORMS) + ")")
_BY_NAME: Final = tuple(re2.compile(pattern) for pattern in _NAMED)
_SECRET_KEY: Final = re2.compile("(?i)^" + _SECRET_NAME + "$")


_HINTS: Final = Patterns((*_TOKEN_FORMS, *_NAMED))
"""Says in one search whether anything is to mask at all: most texts hold no secret."""


def mask(text: str) -> str:
    """`text` with what looks like a secret replaced by `[masked]`. Idempotent; never raises."""
    if not text or not _HINTS.match(text.encode(errors="replace")):
        return text
    masked = text.encode(errors="replace").decode()
    masked = str(_TOKEN.sub(MASK, masked))
    for pattern in _BY_NAME:
        masked = str(pattern.sub(_keep_name, masked))
    return masked


def _keep_name(match: Any) -> str:
    secret = match.group(3)
    if MASK in secret or secret in ("Bearer", "bearer", "Basic", "basic"):
        return str(match.group(0))
    end = "@" if secret.endswith("@") and "://" in match.group(1) else ""
    return f"{match.group(1)}{match.group(2)}{MASK}{end}"


def mask_value(value: Any, name: str = "") -> Any:
    """A JSON value with its secrets masked, also those that only their field's name betrays."""
    if isinstance(value, dict):
        return {mask(str(key)): mask_value(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [mask_value(item, name) for item in value]
    if name and isinstance(value, str | int) and not isinstance(value, bool) and _SECRET_KEY.match(name):
        return MASK
    return mask(value) if isinstance(value, str) else value


def mask_json_text(text: str) -> str:
    """JSON text with its secrets masked; text that is no JSON is masked as text."""
    value = parse_json_text(text)
    if isinstance(value, str):
        masked = mask(value)
        return text if masked == value else (masked if text == value else orjson.dumps(masked).decode())
    masked_value = mask_value(value)
    return text if masked_value == value else orjson.dumps(masked_value).decode()


_JSON_TEXT: Final = ("output", "constraints", "reasoning", "conclusion", "expected_output", "facts")


def mask_event(event: FailureEvent) -> FailureEvent:
    """`event` with the secrets in its free text masked: what may be stored and queried."""
    changes: dict[str, Any] = {}
    for name in _JSON_TEXT:
        text = getattr(event, name)
        if text is not None and (masked := mask_json_text(text)) != text:
            changes[name] = masked
    if event.step is not None:
        changes["step"] = mask(event.step)
    if (error := event.error) is not None:
        chain = tuple(
            cause.model_copy(update={"message": _masked(cause.message), "code": _masked(cause.code)})
            for cause in error.cause_chain
        )
        changes["error"] = error.model_copy(
            update={"message": _masked(error.message), "code": _masked(error.code), "cause_chain": chain}
        )
    if (tool := event.tool_response) is not None:
        changes["tool_response"] = tool.model_copy(
            update={
                "error": _masked(tool.error),
                "headers": mask_value(tool.headers),
                "body": mask_json_text(tool.body) if tool.body is not None else None,
            }
        )
    if (checkpoint := event.checkpoint) is not None:
        changes["checkpoint"] = checkpoint.model_copy(
            update={
                "data": mask_json_text(checkpoint.data) if checkpoint.data is not None else None,
                "uri": _masked(checkpoint.uri),
            }
        )
    if (execution := event.execution) is not None:
        changes["execution"] = execution.model_copy(update={"prompt": _masked(execution.prompt)})
    return event.model_copy(update=changes) if changes else event


def _masked(text: str | None) -> str | None:
    return mask(text) if text is not None else None
