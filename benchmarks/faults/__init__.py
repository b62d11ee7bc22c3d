"""A whole zsq of real processes, each of which can be killed, and what must hold whatever is killed."""
