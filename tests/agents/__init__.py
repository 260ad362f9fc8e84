"""What we say about each agent is true of the real one."""
