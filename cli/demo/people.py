"""A key for whoever runs `up`, and a policy that knows it: what waits for a person can be answered at once."""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import Final

from cli.operate import keys
from processors.recover.policy import SHIPPED

_POLICY: Final = "policy.toml"
_KEYS: Final = "operators"


def provide(folder: Path) -> tuple[Path, Path]:
    """The operator's key and the policy file in `folder`, made where they are missing. The policy may be edited."""
    policy, name = folder / _POLICY, _user()
    key = folder / _KEYS / f"{name}.pem"
    if not key.exists() or not policy.exists():
        key.unlink(missing_ok=True)
        identity, key = keys.generate(name, key.parent)
        policy.write_text(f"{SHIPPED.read_text()}\n{identity.policy}\n")
    return key, policy


def _user() -> str:
    """Who runs this, as an operator's name can be."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "", name)[:64] or "operator"
