"""The MCP server: agents that speak the Model Context Protocol delegate work to other agents through it (docs/mcp.md).

Needs the extra ``holdfast[mcp]``; only ``holdfast mcp`` imports what lies here.
"""
