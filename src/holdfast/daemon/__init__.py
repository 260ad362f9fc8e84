"""The process that folds logs into facts and answers clients over a local HTTP API."""
