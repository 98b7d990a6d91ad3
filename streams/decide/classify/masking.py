"""Secrets in evidence, masked: see schemas.masking, which audit needs too."""

from schemas.masking import MASK, mask, mask_event, mask_json_text, mask_value

__all__ = ["MASK", "mask", "mask_event", "mask_json_text", "mask_value"]
