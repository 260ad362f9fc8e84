"""``http/request``: the host as a client of HTTP servers that its machine can reach."""
