"""From the evidence in a failure event to a verdict. Pure."""

from streams.decide.classify.masking import mask, mask_event
from streams.decide.classify.rules import Rule, RuleError, Rules, built_in, load_rules
from streams.decide.classify.taxonomy import SUBTYPES
from streams.decide.classify.verdict import classify

__all__ = ["SUBTYPES", "Rule", "RuleError", "Rules", "built_in", "classify", "load_rules", "mask", "mask_event"]
