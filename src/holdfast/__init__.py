"""Holdfast runs coding agents and holds on to everything they do.

The folders below are the floors of the house (docs/architecture.md); imports go down only.
"""

__version__ = "0.1.0"
