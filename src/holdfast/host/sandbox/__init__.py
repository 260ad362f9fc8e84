"""Sandboxes that a client asks for: bubblewrap for processes, checks of our own for files; or a refusal."""
