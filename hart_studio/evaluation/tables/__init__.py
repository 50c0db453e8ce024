"""Tables of the paper from any set of evaluations, and their writers."""
