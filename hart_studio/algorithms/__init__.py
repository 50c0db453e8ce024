"""Training methods as pure functions: which turns a method has, what a reward is worth, and the losses."""
