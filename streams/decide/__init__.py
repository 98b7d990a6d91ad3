"""The pure core: from a failure to a verdict and ranked options.

`decide(event, ...)` is all that a worker needs. Nothing below imports a clock, randomness, logging, asyncio
or a client library: time, rules, catalogue and learned rates are arguments.
"""

from streams.decide.catalogue import Catalogue, CatalogueError
from streams.decide.classify.logic import Claim, Judgement, Verifier
from streams.decide.pipeline import claims_to_verify, decide
from streams.decide.rates import Rates

__all__ = ["Catalogue", "CatalogueError", "Claim", "Judgement", "Rates", "Verifier", "claims_to_verify", "decide"]
