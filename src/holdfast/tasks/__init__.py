"""Delegated work: request, attempts, limits, outcome, and the result that cannot vanish and is never false."""
