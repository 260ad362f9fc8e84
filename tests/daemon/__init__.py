"""The daemon: how it starts and ends, and what it answers."""
