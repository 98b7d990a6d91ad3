"""The governor: what recoveries lean on, when they may, and at which pace."""
