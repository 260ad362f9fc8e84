"""The process host (an exec-server) and its client: the only floor that owns processes and their logs."""
