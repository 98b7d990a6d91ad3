"""The life of a recovery: failures and options in, at most one resume command per attempt out."""
