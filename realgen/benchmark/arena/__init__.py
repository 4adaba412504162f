"""Arena-Scoring: a judge compares images pair by pair."""
