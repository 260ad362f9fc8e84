"""The ``holdfast`` command: one small module per command, each a thin client of the daemon."""
