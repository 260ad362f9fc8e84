"""``environmentConfig/read``: what Codex is configured to be on the machine of the host."""
