"""Conversing with the Codex app-server, one server for many threads.

One attempt of a task is one small hosted process, the *turn program* (:mod:`.turn`).  It connects to the shared server,
runs one turn, and writes what the server says about it to its standard output, which is the attempt's log.  The server
itself is hosted too (:mod:`.servers`).  The modules that the turn program loads use the standard library alone, so that
it is connected within a few hundredths of a second.
"""
