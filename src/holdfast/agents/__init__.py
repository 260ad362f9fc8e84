"""What we know of each agent CLI: how to find, probe, launch and resume it, and what its output means."""
