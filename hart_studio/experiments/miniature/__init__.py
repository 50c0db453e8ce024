"""The paper's study in miniature: every method on the built-in model and drawn scenes, with equal budgets."""
