"""Training methods as pure functions: turns of a method, credit assignment, losses."""
