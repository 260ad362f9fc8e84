"""The Python API: what ``import holdfast`` offers, and what every door to the daemon (command line, MCP) shares.

``sync`` has the verbs, ``aio`` the same verbs to be awaited; both are reached through the package itself.
"""
