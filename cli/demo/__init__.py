"""The demonstration: the whole loop on one machine, with agents that really fail and really come back."""
