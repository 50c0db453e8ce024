"""The paper's study in miniature: all methods on the built-in model and needle scenes, with equal budgets."""
