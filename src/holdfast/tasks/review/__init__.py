"""Code reviews: what is reviewed, what the agent is told about it, and what its answer says, in one form for all."""
