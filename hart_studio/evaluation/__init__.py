"""Evaluation: accuracy of boxes and answers, with the paper's metrics."""
