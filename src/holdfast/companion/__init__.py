"""The companion: the command line that Claude Code's Codex plugin calls, with Holdfast's tasks behind it."""
