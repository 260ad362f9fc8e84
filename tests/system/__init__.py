"""The whole system, as a user has it: the command, the daemon, the host, an agent."""
