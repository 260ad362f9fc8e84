"""JSON-RPC as the exec-server protocol speaks it: messages, errors, peers, and framing over three transports."""
