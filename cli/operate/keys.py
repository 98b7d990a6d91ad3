"""An operator's key: a file that only they can read, named after them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from cli.context import ExitCode, fail
from schemas import signing
from schemas.records.operator import OperatorName

_SUFFIX: Final = ".pem"
_NAME: Final[TypeAdapter[str]] = TypeAdapter(OperatorName)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs, and with what."""

    name: str
    key: Ed25519PrivateKey

    @property
    def policy(self) -> str:
        """What a policy file says to let them decide for every tenant."""
        public = signing.public_text(self.key.public_key())
        return f'[operators.{self.name}]\npublic_key = "{public}"\ntenants = ["*"]'


def folder() -> Path:
    """Where keys are kept, if nothing else is said."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "omium" / "operators"


def generate(name: str, into: Path) -> tuple[Identity, Path]:
    """A new key in a file of its own. Raises FileExistsError, ValueError where `name` is none."""
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise ValueError(f"{name!r} is no operator's name: letters, digits, . _ -, at most 64") from None
    identity = Identity(name, Ed25519PrivateKey.generate())
    data = identity.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = into / f"{name}{_SUFFIX}"
    # Never over another key: what it signed could no longer be signed again.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    return identity, path


def load(path: Path) -> Identity:
    """The operator that `path` is named after. Raises OSError, ValueError."""
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others; chmod 600 it, or better: make a new one")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{path} is no private key without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is no Ed25519 key")
    return Identity(path.stem, key)


def mine(path: Path | None) -> Identity:
    """The key in `path`, or the only one that is kept. Ends the command where there is none."""
    if path is None:
        kept = sorted(folder().glob(f"*{_SUFFIX}"))
        if len(kept) != 1:
            _which(kept)
        path = kept[0]
    try:
        return load(path)
    except (OSError, ValueError) as error:
        fail(str(error), ExitCode.USAGE)


def _which(kept: list[Path]) -> NoReturn:
    if kept:
        fail(f"several keys in {folder()}: say which with --key or OMIUM_OPERATOR_KEY", ExitCode.USAGE)
    fail(
        f"no operator's key in {folder()}: make one with `omium-recovery operator keygen NAME`, "
        "or name one with --key or OMIUM_OPERATOR_KEY",
        ExitCode.USAGE,
    )
