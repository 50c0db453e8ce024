"""Tables of the paper for any evaluations, and their writers."""
