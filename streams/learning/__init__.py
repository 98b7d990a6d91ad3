"""Learning which strategies work: counts of settled attempts, and the confidence they give."""
