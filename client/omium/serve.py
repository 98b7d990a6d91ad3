"""Following commands that come later, or that answer the failures of other processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from omium.records import Command, Outcome

if TYPE_CHECKING:
    from omium.client import Omium

Handler = Callable[[Command], Outcome | None]
"""Resumes `command.execution_id` from `command.checkpoint` with `command.modifications`, and says how it
ended (None: succeeded). A run that fails again raises: that is reported as a failure of this attempt."""
_log = logging.getLogger("omium")


class Service:
    """A consumer of this agent's commands, in a group: each command goes to one process of the group."""

    def __init__(self, client: Omium, handler: Handler, *, group: str | None = None, workers: int = 4) -> None:
        """`group`: by default one per tenant and agent. `workers`: commands followed at once."""
        raise NotImplementedError
