"""Ways to converse with a running agent; each turns a hosted process into a stream of events with a cursor."""
