"""Checks: each finds one thing that can be wrong, explains it, and says (or does) what mends it."""
