"""The Faust application: classifies failures, ranks recovery options, learns success rates."""
