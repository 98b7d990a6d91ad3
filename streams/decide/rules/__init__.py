"""The built-in rules, as data; `streams.decide.classify.rules` says what a rule is."""
