"""``capabilities/discoverV2``: the skills and plugins of Codex that there are on the machine of the host."""
